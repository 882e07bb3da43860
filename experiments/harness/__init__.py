"""What the experiments share: their runs are runs of `train.py`, tuned, kept, and tabulated."""
