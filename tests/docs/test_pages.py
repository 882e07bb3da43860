"""The code blocks of every page run in their order, and print what the page shows."""

import contextlib
import io
import re

import jax
import pytest

from tests.docs import commands
from tests.docs.pages import PAGES, ROOT, Block, blocks

NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")


def cases():
    for page in PAGES:
        name, found = str(page.relative_to(ROOT)), blocks(page)
        if found:
            yield pytest.param(page, False, id=name)
        if any("slow" in block.marks for block in found):
            yield pytest.param(page, True, id=f"{name}-whole", marks=pytest.mark.slow)


@pytest.mark.parametrize(("page", "whole"), list(cases()))
def test_a_page_runs(page, whole, reader, train, tmp_path):
    namespace, printed = {"__name__": "__main__"}, ""
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}, line {block.line}"
        marks = block.marks
        if "slow" in marks and not whole:
            if "run" not in marks:
                continue
            marks = frozenset()
        if block.title is not None:
            path = tmp_path / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            printed = run_python(block, where, namespace)
        elif block.language == "bash":
            x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
            run_commands(block, where, train if "run" in marks else None)
            jax.config.update("jax_enable_x64", x64)  # a command may have changed it
        elif "output" in block.marks:
            assert_same_output(printed, block.text, where)
    for figure in re.findall(r"!\[.*?\]\((figures/.*?)\)", page.read_text(encoding="utf-8")):
        assert (tmp_path / figure).exists() or not whole, f"no code on the page makes `{figure}`"


def run_python(block: Block, where: str, namespace: dict) -> str:
    # Empty lines are put before the code, so that a traceback names its line in the page.
    code = compile("\n" * (block.line - 1) + block.text, where.split(",")[0], "exec")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, namespace)
    return out.getvalue()


def run_commands(block: Block, where: str, train) -> None:
    for words in commands.lines(block.text):
        if train is not None:
            (arguments,) = commands.trainings(words)
            done = train(*arguments)
            assert done.code == 0, f"{where}: {done.err}"
            continue
        try:
            commands.check(words)
        except Exception as error:
            raise AssertionError(f"{where}: `{' '.join(words)}`: {error}") from error


def assert_same_output(printed: str, shown: str, where: str) -> None:
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split(), where
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (printed, shown)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.05), where


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
    (example,) = [b.text for b in blocks(ROOT / "README.md") if b.language == "python"]
    code = [line for line in example.splitlines() if line.strip()]
    statements = [line for line in code if not line.startswith((" ", ")", "#", "import"))]
    assert len(statements) <= 20
