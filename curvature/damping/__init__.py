from ._base import (
    AbstractDamping as AbstractDamping,
    Batch as Batch,
    Chosen as Chosen,
    Step as Step,
)
from .constant import ConstantDamping as ConstantDamping
from .levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from .scheduled import ScheduledDamping as ScheduledDamping
