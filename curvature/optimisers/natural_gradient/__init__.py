from .optimiser import (
    NaturalGradient as NaturalGradient,
    NaturalGradientState as NaturalGradientState,
)
