from ._along import (
    SearchOutcome as SearchOutcome,
    evaluates as evaluates,
    init_search as init_search,
    rounding as rounding,
    search_along as search_along,
)
