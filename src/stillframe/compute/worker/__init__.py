"""What every request and operation of the compute worker stands on."""
