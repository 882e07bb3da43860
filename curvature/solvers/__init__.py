from .auto import Auto as Auto, plan_for as plan_for
from .cg import CG as CG
from .plan import Plan as Plan, name_of as name_of
from .sample_space import SampleSpace as SampleSpace
