"""Published comparisons, one command each: `python -m experiments.NAME`."""
