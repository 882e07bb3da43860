"""Recorders: outputs of a run beside the standard files of its folder; one module each."""

from ._base import AbstractRecorder as AbstractRecorder, Arrays as Arrays
from .figures import Figures as Figures
from .guarded import Guarded as Guarded
from .tensorboard import TensorBoard as TensorBoard
