"""Every model with every curvature, by the settings that a run has when it is given none."""
