"""The blocks of code in the README."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()
_BLOCKS = re.findall(r"^```\w+\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def block(containing: str) -> str:
    """The one block that contains this text."""
    (found,) = [text for text in _BLOCKS if containing in text]
    return found
