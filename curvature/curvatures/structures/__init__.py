from ._base import AbstractStructure as AbstractStructure
from .diagonal import Diagonal as Diagonal
