from .capture import Captured as Captured, capture as capture
from .graph import Graph as Graph
from .operations import operations as operations
from .uses import (
    AbstractMatrixUse as AbstractMatrixUse,
    Layers as Layers,
    Use as Use,
    recognise as recognise,
)
