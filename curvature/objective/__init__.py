"""The loss of a model on a batch, as a weighted sum of terms over examples."""

from ._base import (
    AbstractObjective as AbstractObjective,
    check_objective as check_objective,
    check_trainable as check_trainable,
)
from ._term import Term as Term
from .autoencoding import Autoencoding as Autoencoding
from .objective import Objective as Objective
from .supervised import Supervised as Supervised
