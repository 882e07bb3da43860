"""Launchers for sweeps in which no job is lost by the death of another.

Hydra accepts a launcher only from a package in `hydra_plugins`, which it searches at its start:
what the extra `sweeps` installs is imported no sooner than a launcher is made.
"""
