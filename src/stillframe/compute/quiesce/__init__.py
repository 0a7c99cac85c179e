"""Quiescing a guest: the frozen window, the watchdog that ends it, and what may be claimed afterwards."""
