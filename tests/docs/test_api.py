"""The API pages list every public name, and the examples in docstrings are correct."""

import doctest
import re
import types

import pytest

import curvature as cv
import data
import environments
import models
from tests.docs.pages import ROOT

LISTED = set(
    re.findall(
        r"^::: (\S+)$",
        "\n".join(p.read_text(encoding="utf-8") for p in ROOT.glob("docs/api/*.md")),
        re.M,
    )
)


def public(module):
    """The public names of a package, without its modules."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


@pytest.mark.parametrize("package", [cv, models, data, environments], ids=lambda p: p.__name__)
def test_every_public_name_is_listed(package):
    wanted = {f"{package.__name__}.{name}" for name in public(package)}
    assert wanted
    assert wanted - LISTED == set()


def test_every_page_is_in_the_navigation():
    """`mkdocs build --strict` checks the rest: links, anchors and names of the API."""
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    pages = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}
    assert set(re.findall(r"(\S+\.md)$", nav, re.M)) == pages


EXAMPLES = [
    value for name in sorted(public(cv)) if ">>>" in ((value := getattr(cv, name)).__doc__ or "")
]


@pytest.mark.parametrize("documented", EXAMPLES, ids=lambda value: value.__name__)
def test_the_example_in_a_docstring_is_correct(documented):
    (example,) = doctest.DocTestFinder(recurse=False).find(
        documented, documented.__name__, globs={}
    )
    assert doctest.DocTestRunner().run(example).failed == 0
