from .solver import CG as CG
