"""What does not fit between shares, rows and libvirt: looked for, told in plain words, and mended where that is safe.

``looking`` reads the world into the values of ``seen``; ``judging`` and ``guests`` make findings of them, ``repairs`` a
plan of the findings: all three are pure. ``mending`` carries a plan out, ``undoing`` takes it back.
"""
