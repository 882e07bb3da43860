from ._base import (
    AbstractCoveringPullback as AbstractCoveringPullback,
    AbstractCurvature as AbstractCurvature,
    AbstractPullback as AbstractPullback,
)
from .divergence import Divergence as Divergence
from .empirical_fisher import EmpiricalFisher as EmpiricalFisher
from .exact_fisher import ExactFisher as ExactFisher
from .first_examples import FirstExamples as FirstExamples
from .gauss_newton import GaussNewton as GaussNewton
from .identity import Identity as Identity
from .moving_average import MovingAverage as MovingAverage
from .own_damping import OwnDamping as OwnDamping
from .sampled_fisher import SampledFisher as SampledFisher
from .structures import (
    EKFAC as EKFAC,
    KFAC as KFAC,
    AbstractStructure as AbstractStructure,
    BlockDiagonal as BlockDiagonal,
    Diagonal as Diagonal,
    LowRank as LowRank,
)
