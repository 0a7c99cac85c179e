"""What every request and operation of the block storage worker stands on."""
