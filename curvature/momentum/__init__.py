from ._base import AbstractMomentum as AbstractMomentum, Direction as Direction
from .quadratic import QuadraticMomentum as QuadraticMomentum
from .spring import Spring as Spring
