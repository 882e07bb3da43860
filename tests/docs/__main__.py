"""`python -m tests.docs PAGE` runs the Python of a page in `docs/`, which makes its figures."""

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
