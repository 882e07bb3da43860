"""The names of the files in a run folder."""

METRICS = "metrics.jsonl"
CONFIG = "config.yaml"
SUMMARY = "summary.json"
MODEL = "model.eqx"
CHECKPOINTS = "checkpoints"
ERROR_LOG = "error.log"
"""The traceback of a job that failed, perhaps before it wrote anything else."""
