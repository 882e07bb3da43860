from ._along import (
    evaluates as evaluates,
    init_search as init_search,
    minus as minus,
    search_along as search_along,
    SearchOutcome as SearchOutcome,
)
