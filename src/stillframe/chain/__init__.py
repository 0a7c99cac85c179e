"""What a backing chain is and what should be done to it. Pure: no I/O, no clock, no randomness."""
