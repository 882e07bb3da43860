from ._base import AbstractBlock as AbstractBlock, AbstractBlockMap as AbstractBlockMap
from .dense import DenseBlock as DenseBlock
from .eigenbasis import EigenbasisBlock as EigenbasisBlock
from .elementwise import ElementwiseBlock as ElementwiseBlock
from .factored import FactoredBlock as FactoredBlock, KeptInverse as KeptInverse
from .groups import GroupRows as GroupRows
from .layouts import Joined as Joined, Ravelled as Ravelled
from .operator import BlockOperator as BlockOperator
from .output_basis import OutputBasisBlock as OutputBasisBlock
from .products import ProductsBlock as ProductsBlock
from .rows import (
    AbstractBlockRows as AbstractBlockRows,
    HeldRows as HeldRows,
    LayerRows as LayerRows,
    RowsBlock as RowsBlock,
)
from .spectral import SpectralBlock as SpectralBlock
from .stacked import StackedBlock as StackedBlock
from .tables import TableRows as TableRows
