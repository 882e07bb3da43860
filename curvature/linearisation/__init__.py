from ._base import (
    AbstractLinearisation as AbstractLinearisation,
    AbstractPartResults as AbstractPartResults,
    LinearisedTerm as LinearisedTerm,
    example_keys as example_keys,
    losses_of as losses_of,
    penalised as penalised,
)
from ._linearise import Example as Example, linearise as linearise
from ._parts import Parts as Parts
from .chunked import ChunkedLinearisation as ChunkedLinearisation
from .held import Linearisation as Linearisation
