from ._along import (
    SearchOutcome as SearchOutcome,
    at_step as at_step,
    init_search as init_search,
    search_along as search_along,
)
from ._base import evaluates as evaluates
from .kl_trust_region import KLTrustRegion as KLTrustRegion
from .scheduled import ScheduledLearningRate as ScheduledLearningRate
