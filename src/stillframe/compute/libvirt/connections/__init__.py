"""How a server gets at a volume, one module for each way; which one, connection_info's ``driver_volume_type`` says."""
