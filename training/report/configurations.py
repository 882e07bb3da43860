"""Groups runs by configuration, and names each group by the settings in which it differs."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from running.settings import ASIDE

from .runs import StoredRun

CHOICES = "choices."
Flat = dict[str, str]
"""Values as JSON by their dotted keys."""
_MOST_TRIES = 2000


class Configuration(NamedTuple):
    """Runs whose configurations are equal except for the seed, and a name for them."""

    label: str
    runs: list[StoredRun]

    @property
    def finished(self) -> list[StoredRun]:
        """The runs that finished."""
        return [run for run in self.runs if run.is_finished]


def configurations(runs: Sequence[StoredRun]) -> list[Configuration]:
    """Group `runs`, in their order, and name the groups by the keys of `distinguishing_keys`.

    If there is only one configuration, its name is the label of its runs.
    """
    flats = [_relevant_part(run.config) for run in runs]
    seeds = _seed_keys(flats)
    groups: dict[tuple[tuple[str, str], ...], list[StoredRun]] = {}
    for run, flat in zip(runs, flats, strict=True):
        kept = {key: value for key, value in flat.items() if key not in seeds}
        groups.setdefault(tuple(kept.items()), []).append(run)
    known = [dict(items) for items in groups if items]
    keys = distinguishing_keys(known)
    return [
        Configuration(_label(dict(items), keys, members), members)
        for items, members in groups.items()
    ]


def distinguishing_keys(flats: Sequence[Flat]) -> list[str]:
    """The smallest set of keys whose values distinguish all of the different `flats`.

    If the search for the smallest set takes too many tries: a set from which no key can be removed.
    Among keys that distinguish the same configurations, the choice of a group is preferred, then
    the key nearest to the top level.
    """
    keys = sorted({key: None for flat in flats for key in flat}, key=_sort_key)
    by_partition: dict[tuple[int, ...], str] = {}
    for key in keys:
        by_partition.setdefault(_partition(flats, [key]), key)
    candidates = list(by_partition.values())
    # Without one of these keys some configurations coincide, so every solution contains them. In a
    # sweep of one key at a time no other key is needed.
    needed = [
        key
        for key in candidates
        if _parts(flats, [other for other in candidates if other != key]) < len(flats)
    ]
    others = [key for key in candidates if key not in needed]
    sets = (set(more) for k in range(len(others) + 1) for more in itertools.combinations(others, k))
    for added in itertools.islice(sets, _MOST_TRIES):
        chosen = [key for key in candidates if key in needed or key in added]
        if _parts(flats, chosen) == len(flats):
            return chosen
    return _irreducible_keys(flats, candidates)


def _irreducible_keys(flats: Sequence[Flat], keys: Sequence[str]) -> list[str]:
    """A set from which no key can be removed; the keys that distinguish most are tried first."""
    chosen: list[str] = []
    while _parts(flats, chosen) < _parts(flats, keys):
        chosen.append(max(keys, key=lambda key: _parts(flats, [*chosen, key])))
    for key in list(chosen):
        fewer = [other for other in chosen if other != key]
        if _parts(flats, fewer) == _parts(flats, chosen):
            chosen = fewer
    return [key for key in keys if key in chosen]


def _relevant_part(config: dict[str, Any]) -> Flat:
    """The part of a configuration that affects the results of a run."""
    aside = {*ASIDE, *(f"{CHOICES}{key}" for key in ASIDE)}
    kept = {key: value for key, value in config.items() if key not in aside}
    return {key: value for key, value in _flat(kept) if key not in aside}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, child in sorted(value.items(), key=lambda item: str(item[0])):
            yield from _flat(child, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, json.dumps(value, ensure_ascii=False, default=str)


def _seed_keys(flats: Sequence[Flat]) -> set[str]:
    """`seed`, and every other key called `seed` that always has its value, as a dataset's may."""
    named = {key for flat in flats for key in flat if key.rpartition(".")[2] == "seed"}
    return {
        key for key in named if all(flat[key] == flat.get("seed") for flat in flats if key in flat)
    }


def _sort_key(key: str) -> tuple[bool, bool, int, str]:
    return not key.startswith(CHOICES), key.endswith("_target_"), key.count("."), key


def _partition(flats: Sequence[Flat], keys: Sequence[str]) -> tuple[int, ...]:
    """For each configuration the number of its part; equal values of `keys` share a part."""
    numbers: dict[tuple[str | None, ...], int] = {}
    return tuple(
        numbers.setdefault(tuple(flat.get(key) for key in keys), len(numbers)) for flat in flats
    )


def _parts(flats: Sequence[Flat], keys: Sequence[str]) -> int:
    return len(set(_partition(flats, keys)))


def _label(flat: Flat, keys: Sequence[str], runs: Sequence[StoredRun]) -> str:
    if not flat:
        return "unknown configuration"
    if not keys:
        return next(
            (str(run.summary["curvature"]) for run in runs if "curvature" in run.summary), "run"
        )
    names = {key: key.removeprefix(CHOICES) for key in keys}
    texts = [f"{name}={_plain(flat[key])}" for key, name in names.items() if key in flat]
    # A configuration that has none of the keys differs from the others by lacking them.
    return ", ".join(texts or [f"no {name}" for name in names.values()])


def _plain(value: str) -> str:
    """A JSON value as text; a string is without its quotes."""
    found = json.loads(value)
    return found if isinstance(found, str) else value
