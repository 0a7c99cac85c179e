"""Entry points: everything in one process, the parts apart, and the command line."""
