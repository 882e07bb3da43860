from ._base import AbstractStructure as AbstractStructure
from .block_diagonal import BlockDiagonal as BlockDiagonal
from .diagonal import Diagonal as Diagonal
from .ekfac import EKFAC as EKFAC
from .kfac import KFAC as KFAC
from .low_rank import LowRank as LowRank
