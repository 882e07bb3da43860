"""Every model with every curvature, with the default settings of a run."""
