"""Where a run is written down beside its own folder's files; one file each."""

from ._base import AbstractRecorder as AbstractRecorder, Arrays as Arrays
from .figures import Figures as Figures
from .guarded import Guarded as Guarded
from .tensorboard import TensorBoard as TensorBoard
