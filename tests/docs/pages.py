"""The pages of the documentation and the README, and what stands in them.

A comment before a fenced block says more about it: `<!-- run -->`, its commands are run as they
stand, not only checked; `<!-- slow -->`, not in the quick tests, which check its commands alone;
`<!-- output -->`, it is what the Python before it prints, numbers within a twentieth.
"""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r'^(?:<!-- (?P<marks>[\w ]+) -->\n)?'
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    flags=re.DOTALL | re.MULTILINE,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block: its language, the file that it is, if any, its marks and its text."""

    language: str
    title: str | None
    marks: frozenset[str]
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    source = page.read_text(encoding="utf-8")
    return [
        Block(
            found["language"],
            found["title"],
            frozenset((found["marks"] or "").split()),
            found["text"],
            source.count("\n", 0, found.start("text")) + 1,
        )
        for found in _FENCE.finditer(source)
    ]


def file(title: str) -> str:
    """The text of the one block, of all pages, that is the file of this name."""
    (found,) = [b.text for page in PAGES for b in blocks(page) if b.title == title]
    return found
