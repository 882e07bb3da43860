"""`python -m tests.docs PAGE`: run a page's Python in the folder `docs/`; it makes the figures."""

import os
import sys
from pathlib import Path

from tests.docs.pages import ROOT, blocks

if __name__ == "__main__":
    page, namespace = Path(sys.argv[1]).resolve(), {"__name__": "__main__"}
    os.chdir(ROOT / "docs")
    for block in blocks(page):
        if block.language == "python" and block.title is None:
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
