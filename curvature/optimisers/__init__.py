from ._base import (
    AbstractOptimiser as AbstractOptimiser,
    Info as Info,
    RESULTS as RESULTS,
)
from .first_order import FirstOrder as FirstOrder, FirstOrderState as FirstOrderState
from .natural_gradient import (
    NaturalGradient as NaturalGradient,
    NaturalGradientState as NaturalGradientState,
)
