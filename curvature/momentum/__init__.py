from ._base import AbstractMomentum as AbstractMomentum, Direction as Direction
from .none import NoMomentum as NoMomentum
from .quadratic import QuadraticMomentum as QuadraticMomentum
from .spring import Spring as Spring
from .warm_start import WarmStart as WarmStart
