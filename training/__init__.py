"""The training loop and the files that it writes; it depends on no particular curvature."""

from running import CHANGEABLE as CHANGEABLE, ExitCode as ExitCode, Settings as Settings

from . import hosts as hosts
from ._base import Run as Run
from .checkpoint import check_checkpoints as check_checkpoints
from .checkpoint_file import CheckpointError as CheckpointError
from .evaluate import evaluate as evaluate
from .folder import (
    CONFIG as CONFIG,
    FolderError as FolderError,
    check_folder as check_folder,
    make_folder as make_folder,
)
from .preflight import fitting_micro_batch as fitting_micro_batch, preflight as preflight
from .provenance import is_restart as is_restart
from .recorders import AbstractRecorder as AbstractRecorder, Arrays as Arrays
from .run import train as train
from .stepper import Stepper as Stepper
from .summary import Summary as Summary
from .together import alike as alike, train_together as train_together
