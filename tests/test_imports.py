"""The library imports only its dependencies, and no import starts a backend of JAX.

Each test runs its script in a new process.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Imports the whole library. An import hook refuses all installed distributions except those on the
# command line and their dependencies.
IMPORT_LIBRARY_ALONE = """
import importlib, importlib.metadata as metadata, pkgutil, re, sys
from packaging.requirements import Requirement

def normalised(name):
    return re.sub("[-_.]+", "-", name).lower()

allowed, waiting = set(), sys.argv[1:]
while waiting:
    requirement = Requirement(waiting.pop())
    name = normalised(requirement.name)
    if name in allowed or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
        continue
    allowed.add(name)
    waiting += metadata.requires(name) or []

class Refusal:
    def find_spec(self, name, path=None, target=None):
        owners = owners_of.get(name.partition(".")[0])
        if owners and allowed.isdisjoint(map(normalised, owners)):
            raise ModuleNotFoundError(f"the library must not need {name} of {owners}")

owners_of = metadata.packages_distributions()
owners_of.pop("curvature", None)
for name in [name for name in sys.modules if name.startswith(("packaging", "setuptools"))]:
    del sys.modules[name]
sys.meta_path.insert(0, Refusal())
import curvature
for module in pkgutil.walk_packages(curvature.__path__, "curvature."):
    importlib.import_module(module.name)
print(len(allowed))
"""

IMPORT_ALL_MODULES = """
import importlib, pkgutil, sys
from jax._src import xla_bridge

for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
        assert not xla_bridge.backends_are_initialized(), f"{module.name} computes at its import"
"""


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_library_needs_only_its_declared_dependencies():
    """The import hook replaces an environment without extras, which takes a minute to make."""
    dependencies = _project()["project"]["dependencies"]
    assert int(_run(IMPORT_LIBRARY_ALONE, *dependencies)) >= len(dependencies)


def test_an_import_starts_no_backend():
    packages = _project()["tool"]["importlinter"]["root_packages"]
    _run(IMPORT_ALL_MODULES, *packages, "hydra_plugins")
