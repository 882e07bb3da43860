from .capture import Captured as Captured, capture as capture
from .graph import Graph as Graph
from .lookups import Lookup as Lookup
from .matrices import MatrixLayer as MatrixLayer, matrix_layers as matrix_layers
from .modules import modules_of as modules_of
from .operations import operations as operations
from .recognition import Layers as Layers, recognise as recognise
from .uses import AbstractMatrixUse as AbstractMatrixUse, Use as Use
