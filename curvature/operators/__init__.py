from ._base import (
    AbstractInvertibleOperator as AbstractInvertibleOperator,
    AbstractPositiveOperator as AbstractPositiveOperator,
)
from ._forms import quadratic_forms as quadratic_forms
from ._solved import Solved as Solved, solved_by_product as solved_by_product
from .damped import DampedOperator as DampedOperator, damped as damped
from .dense import DenseOperator as DenseOperator
from .diagonal import DiagonalOperator as DiagonalOperator
from .low_rank import LowRankOperator as LowRankOperator
from .own_damping import OwnDampingOperator as OwnDampingOperator
from .pullback import PullbackOperator as PullbackOperator
