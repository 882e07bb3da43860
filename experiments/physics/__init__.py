"""Physics-informed networks: damped Gauss-Newton against Adam for the same time."""
