"""The layout of the report in headless Chromium, on a phone and on a desktop screen."""

import html
import json
import shutil
import subprocess

import pytest

from tests.selection import slow_but
from training.report import write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")

# A window of Chromium has a minimum width, so the page is shown in a frame, which has none.
OUTER = """<!doctype html>
<iframe id="page" style="width: {width}px; height: 900px; border: 0" srcdoc="{page}"></iframe>
<pre id="found"></pre>
<script>
const frame = document.getElementById("page");
frame.onload = () => {{
  const page = frame.contentDocument;
  const elements = [...page.querySelectorAll("td, img, h1, h2, p")];
  const boxes = elements.map((element) => element.getBoundingClientRect());
  document.getElementById("found").textContent = JSON.stringify({{
    width: frame.contentWindow.innerWidth,
    whole: page.documentElement.scrollWidth,
    left: Math.min(...boxes.map((box) => box.left)),
    right: Math.max(...boxes.map((box) => box.right)),
    images: [...page.images].map((image) => [image.complete && image.naturalWidth, image.width]),
    cells: page.querySelectorAll("td").length,
    size: parseFloat(frame.contentWindow.getComputedStyle(page.body).fontSize),
  }});
}};
</script>
"""


def measure_layout(page, width, folder):
    """The measurements of the page in a frame of this width; the browser has no network."""
    outer = folder / f"outer_{width}.html"
    outer.write_text(OUTER.format(width=width, page=html.escape(page.read_text())))
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        "--disable-dev-shm-usage",
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000"),
        *(f"--user-data-dir={folder / 'profile'}", "--window-size=2000,1000", outer.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = done.stdout.split('<pre id="found">')[1].split("</pre>")[0]
    return json.loads(html.unescape(found))


def one_run(write_run):
    write_run("run")


def a_hundred_runs(write_run):
    """A hundred runs of unequal length, of twenty configurations with long names."""
    for number in range(100):
        losses = tuple(None if step % 7 == 6 else 1 / step for step in range(1, 5 + number % 40))
        config = {"seed": number // 20, "optimiser": {"a_rather_long_name": number % 20, "b": 1e-3}}
        write_run(f"run_{number}", config, losses=losses)


def broken_runs(write_run):
    write_run("good", {"lr": 1})
    write_run(
        "nan", {"lr": 2}, losses=(None, None), summary={"status": "diverged", "reason": "NaN"}
    )
    write_run("killed", {"lr": 3}, losses=(1.0,), unfinished=True)


@pytest.mark.parametrize("width", slow_but([360], [360, 1440]))
@pytest.mark.parametrize("runs", [one_run, a_hundred_runs, broken_runs])
def test_the_whole_page_fits_the_window(runs, width, write_run, tmp_path):
    runs(write_run)
    page = write_report([tmp_path]).page
    found = measure_layout(page, width, tmp_path)
    assert found["width"] == width
    assert found["whole"] <= width
    assert found["left"] >= 0
    assert found["right"] <= width
    assert found["size"] >= 16
    assert found["images"]
    assert found["cells"] > 0
    for natural, shown in found["images"]:
        assert natural > 0  # the browser has decoded the image
        assert shown > min(0.8 * width, 400)
