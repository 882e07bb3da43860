from ._base import (
    AbstractInvertibleOperator as AbstractInvertibleOperator,
    AbstractPositiveOperator as AbstractPositiveOperator,
)
from .damped import DampedOperator as DampedOperator, damped as damped
from .dense import DenseOperator as DenseOperator
from .diagonal import DiagonalOperator as DiagonalOperator
from .low_rank import LowRankOperator as LowRankOperator
from .pullback import PullbackOperator as PullbackOperator
