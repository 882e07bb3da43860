"""Launchers for sweeps in which the death of one job does not affect the others.

Hydra accepts launchers only from packages in `hydra_plugins`, and imports these packages whenever
it starts. So the packages of the extra `sweeps` are imported only when a launcher is made.
"""
