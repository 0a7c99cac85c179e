"""Unit tests; the tree mirrors ``src/stillframe``. No process, no socket, no sleep."""
