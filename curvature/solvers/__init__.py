from .auto import Auto as Auto
from .cg import CG as CG
from .sample_space import SampleSpace as SampleSpace
