"""The built site: its layout on a phone, in headless Chromium, and the types in its signatures."""

import contextlib
import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
WIDTH = 390
SECONDS = 120
"""The time limit for one start of Chromium."""
# A window of Chromium has a minimum width, so the pages are shown in a frame, which has none.
OUTER = """<!doctype html>
<iframe id="frame" style="width: {width}px; height: 900px; border: 0"></iframe>
<pre id="found"></pre>
<script>
const pages = {pages}, found = [], frame = document.getElementById("frame");
function next() {{
  if (pages.length > 0) frame.src = pages.pop();
  else document.getElementById("found").textContent = JSON.stringify(found);
}}
frame.onload = () => {{
  const page = frame.contentDocument;
  const missing = [...page.images].filter((image) => !image.naturalWidth).length;
  const cut = [...page.querySelectorAll(".doc-signature code")]
    .filter((signature) => signature.scrollWidth > signature.clientWidth).length;
  const width = page.documentElement.scrollWidth;
  found.push([frame.contentWindow.location.pathname, width, missing, cut]);
  next();
}};
next();
</script>
"""


@pytest.fixture
def site(tmp_path):
    """The folder of the built site, and the address of a server for it."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    subprocess.run([*command, "--site-dir", str(tmp_path / "site")], cwd=ROOT, check=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            del args

    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path / "site", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def lay_out(address: str, folder: Path) -> str:
    """The HTML of the document at `address` after its scripts have run.

    This takes about ten seconds. On a busy machine Chromium's virtual clock sometimes stops and
    does not continue. Then Chromium is started again, at most three times in all.
    """
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *("--disable-dev-shm-usage", "--virtual-time-budget=120000", "--window-size=2000,1000"),
    ]
    for attempt in range(3):
        profile = f"--user-data-dir={folder / f'profile{attempt}'}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [*command, profile, address],
                capture_output=True,
                text=True,
                check=True,
                timeout=SECONDS,
            )
            return done.stdout
    raise AssertionError(f"Chromium did not end within {SECONDS} seconds, three times.")


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_every_page_fits_a_phone(site, tmp_path):
    folder, address = site
    pages = [f"/{page.parent.relative_to(folder)}/" for page in folder.rglob("index.html")]
    outer = OUTER.format(width=WIDTH, pages=json.dumps(pages))
    (folder / "outer.html").write_text(outer, encoding="utf-8")
    laid_out = lay_out(f"{address}/outer.html", tmp_path)
    found = json.loads(laid_out.split('<pre id="found">')[1].split("</pre>")[0])
    assert len(found) == len(pages) > 40
    assert [page for page in found if page[1] > WIDTH or page[2] > 0 or page[3] > 0] == []


@pytest.mark.slow
def test_signatures_have_legible_types(site):
    folder, _ = site
    found = [
        html.unescape(re.sub(r"<[^>]+>", "", signature))
        for page in (folder / "api").glob("*/index.html")
        for signature in re.findall(
            r'<div class="[^"]*doc-signature[^"]*">(.*?)</pre>', page.read_text("utf-8"), re.DOTALL
        )
    ]
    assert len(found) > 150
    shapes = re.findall(r"\b(?:Float|Int|Bool|Real|Shaped)\[(.*?)\]", "\n".join(found), re.DOTALL)
    assert len(shapes) > 50
    assert [s for s in shapes if not re.fullmatch(r'\s*(Array|ndarray),\s*"[^"]*",?\s*', s)] == []
