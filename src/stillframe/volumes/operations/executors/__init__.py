"""One plan, several executors: offline, for a stopped server, live."""
