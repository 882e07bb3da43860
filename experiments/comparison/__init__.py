"""What comparisons of optimisers share: curves of runs, tuning, levels and tables."""
