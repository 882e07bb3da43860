from ._base import (
    AbstractLinearisation as AbstractLinearisation,
    LinearisedTerm as LinearisedTerm,
    example_keys as example_keys,
    losses_of as losses_of,
    penalised as penalised,
    term_key as term_key,
)
from .held import Example as Example, Linearisation as Linearisation, linearise as linearise
