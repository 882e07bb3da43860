from ._base import (
    RESULTS as RESULTS,
    AbstractOptimiser as AbstractOptimiser,
    Info as Info,
)
from .first_order import FirstOrder as FirstOrder, FirstOrderState as FirstOrderState
from .minimiser import Minimiser as Minimiser, MinimiserState as MinimiserState
from .natural_gradient import (
    NaturalGradient as NaturalGradient,
    NaturalGradientState as NaturalGradientState,
)
