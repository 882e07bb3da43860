"""The pages of the documentation and the README, and their fenced blocks.

A comment in the line before a fenced block can contain marks, as in `<!-- run slow -->`:

- `run`: the commands of the block are run. Without this mark they are only checked.
- `slow`: the quick tests skip the block, or, if it is also marked `run`, only check its commands.
- `output`: the block is the output of the Python before it; numbers may differ by 5 %.
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
    """One fenced block.

    - `language`: such as `python` or `bash`.
    - `title`: the name of the file whose content the block is; None if it is not a file.
    - `marks`: the words in the comment before the block.
    - `text`: the content of the block.
    - `line`: the number of the first line of `text` in the page.
    """

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
    """The text of the block with this title; there must be exactly one in all pages."""
    (found,) = [b.text for page in PAGES for b in blocks(page) if b.title == title]
    return found
