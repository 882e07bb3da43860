from ._base import (
    AbstractLinearisation as AbstractLinearisation,
    LinearisedTerm as LinearisedTerm,
    example_keys as example_keys,
    losses_of as losses_of,
    penalised as penalised,
)
from .held import Example as Example, Linearisation as Linearisation, linearise as linearise
