"""Compiled programs are cached on disk, so a job that differs only in numbers compiles nothing."""

import collections
from pathlib import Path

import jax
import platformdirs
import pytest

from tests.selection import slow_but
from training.program_cache import AUTO, VARIABLE, use_cache

HITS, MISSES = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


@pytest.fixture(autouse=True)
def _restored():
    yield
    use_cache(AUTO)


def folder():
    return jax.config.jax_compilation_cache_dir


@pytest.fixture
def events():
    """The number of events that JAX has reported during the test, by name."""
    found = collections.Counter()

    def listen(name, **kwargs):
        found[name] += 1

    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.unregister_event_listener(listen)


CHEAP = "model=linear", "max_steps=1", "quiet=true"
# An optimiser, and two choices of its numbers.
SGD = ("optimiser=sgd",), ("objective.l2=0.1",), ("objective.l2=0.2",)
NATURAL = (
    ("curvature=identity", "search=learning_rate"),
    ("objective.l2=0.1", "damping.value=0.5"),
    ("objective.l2=0.2", "damping.value=0.25"),
)


@pytest.mark.parametrize(("by", "numbers", "changed"), slow_but([SGD], [SGD, NATURAL]))
def test_jobs_that_differ_in_numbers_compile_once(train, events, tmp_path, by, numbers, changed):
    cache = f"compilation_cache={tmp_path / 'compiled'}"
    jax.clear_caches()
    assert train(*CHEAP, *by, cache, *numbers, "seed=2", "hydra.run.dir=1").code == 0
    assert events[MISSES] == len(list((tmp_path / "compiled").glob("*-cache"))) > 0
    events.clear()
    jax.clear_caches()
    assert train(*CHEAP, *by, cache, *changed, "seed=3", "hydra.run.dir=2").code == 0
    assert events[HITS] > 0 == events[MISSES]


def test_auto_is_the_folder_of_the_environment_or_else_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "environment"))
    use_cache(AUTO)
    assert folder() == str(tmp_path / "environment")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    use_cache(AUTO)
    assert folder() == str(tmp_path / "curvature" / "jax")
    assert Path(folder()).is_dir()
    monkeypatch.undo()


def test_null_disables_the_cache():
    use_cache(None)
    assert folder() is None


def test_a_folder_that_cannot_be_written_to_does_not_fail_the_run(train):
    overrides = "optimiser=sgd", "model=linear", "max_steps=1", "hydra.run.dir=run"
    done = train(*overrides, "compilation_cache=/proc/compiled")
    assert done.code == 0
    assert "Compiled programs are not cached: cannot write to `/proc/compiled`" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("setting", [5, True, ""])
def test_a_setting_that_is_no_folder_is_refused(setting):
    with pytest.raises(ValueError, match=r"`compilation_cache` must be auto, null or the name"):
        use_cache(setting)
