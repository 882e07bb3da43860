"""Shared code of the comparisons of optimisers: curves of runs, tuning, levels and tables."""
