from ._along import (
    SearchOutcome as SearchOutcome,
    evaluates as evaluates,
    init_search as init_search,
    search_along as search_along,
)
from .kl_trust_region import KLTrustRegion as KLTrustRegion
