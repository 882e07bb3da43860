from ._base import AbstractStructure as AbstractStructure
from .diagonal import Diagonal as Diagonal
from .low_rank import LowRank as LowRank
