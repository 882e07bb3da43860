from ._base import (
    RightHandSide as RightHandSide,
    Solution as Solution,
    relative_residual as relative_residual,
)
from .auto import (
    Auto as Auto,
    check_preconditioned as check_preconditioned,
    choose_solver as choose_solver,
)
from .cg import CG as CG
from .direction import solve as solve
from .plan import (
    Plan as Plan,
    StructureCost as StructureCost,
    name_of as name_of,
    plan_for as plan_for,
)
from .preconditioned import Preconditioned as Preconditioned
from .sample_space import SampleSpace as SampleSpace
from .structured import Structured as Structured
