"""What every kind of share must do, as the driver contract (``volumes/storage/drivers/contract.py``) says it.

The checks run under pytest (``tests/functional/test_drivers.py``), and without it on a machine that has the share:
``python -m tests.support.driver_suite KIND DIRECTORY EXPORT``.
"""
