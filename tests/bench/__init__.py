"""Benchmarks: ours beside what operators use today, alternating in one run, medians and ratios."""
