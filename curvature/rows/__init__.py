from ._base import row_products as row_products
from .build import columns_of as columns_of, ranks_of as ranks_of, rows_of as rows_of
from .cost import (
    Cost as Cost,
    cost_of as cost_of,
    gradient_operations as gradient_operations,
    memory_of as memory_of,
)
from .factor import Factor as Factor, factorise as factorise
from .layout import Layout as Layout, layout_of as layout_of
from .lower_blocks import LowerBlocks as LowerBlocks
from .rows import Rows as Rows
from .split import Split as Split, split_gradient as split_gradient
from .sums import (
    diagonal_of as diagonal_of,
    matrix_of as matrix_of,
    rows_for as rows_for,
    sum_over_chunks as sum_over_chunks,
    sum_over_rows as sum_over_rows,
)
from .tokens import TokenRows as TokenRows, sum_by_token as sum_by_token
