"""Finds what does not agree between shares, rows and libvirt, explains it, and repairs it where that is safe. ``looking`` reads
all of it into the values of ``seen``; ``judging`` and ``guests`` make findings of them, ``repairs`` a plan of the findings: all
three are pure. ``mending`` carries a plan out, ``undoing`` takes it back.
"""
