from ._base import (
    RESULTS as RESULTS,
    AbstractEvaluatedElsewhere as AbstractEvaluatedElsewhere,
    AbstractOptimiser as AbstractOptimiser,
    Info as Info,
    evaluated as evaluated,
)
from .averaged import Averaged as Averaged, AveragedState as AveragedState
from .first_order import FirstOrder as FirstOrder, FirstOrderState as FirstOrderState
from .minimiser import Minimiser as Minimiser, MinimiserState as MinimiserState
from .natural_gradient import (
    NaturalGradient as NaturalGradient,
    NaturalGradientState as NaturalGradientState,
)
from .optax_face import (
    ScaleByCurvatureState as ScaleByCurvatureState,
    scale_by_curvature as scale_by_curvature,
)
from .proximal_point import ProximalPoint as ProximalPoint, ProximalPointState as ProximalPointState
