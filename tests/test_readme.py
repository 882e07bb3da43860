"""What the README shows of the library is run as it stands there."""

import pytest

from tests.readme import block


def test_the_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("cv.NaturalGradient("), "README.md", "exec"), {})
    loss = float(capsys.readouterr().out.splitlines()[-1].split()[0])
    assert loss < 0.3  # it starts near log 2


def test_the_library_example_is_short() -> None:
    code = [line for line in block("cv.NaturalGradient(").splitlines() if line.strip()]
    statements = [line for line in code if not line.startswith((" ", ")", "#", "import"))]
    assert len(statements) <= 20
