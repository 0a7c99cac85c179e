"""What the compute worker does by itself from time to time."""
