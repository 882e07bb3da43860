"""Physics-informed networks: damped Gauss-Newton compared with Adam, for the same time."""
