"""From the command line to objects: everything of the project that speaks Hydra."""

from .errors import ConfigError as ConfigError
from .instantiation import instantiate as instantiate
from .job import Job as Job, current_job as current_job
from .launcher import launch as launch
from .runs import build as build
