from .build import rows_of as rows_of
from .lower_blocks import LowerBlocks as LowerBlocks
from .rows import Rows as Rows
