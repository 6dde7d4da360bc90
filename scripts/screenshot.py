"""Screenshot of TensorBoard's panels, or where a third word says so of its first panel alone (for
many runs), its images or the HParams of a sweep:
python scripts/screenshot.py LOGDIR OUT.png [health|images|hparams]

Needs Chromium with its driver (Debian: apt-get install chromium chromium-driver) and selenium.
Serves on 127.0.0.1 only, on a free port. Prints each chart with the number of its curves.
"""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

SIZE = (2150, 3140)  # five charts in a row, five panels high
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
    "--hide-scrollbars",
]  # fmt: skip
IMAGES = (1510, 1660)
HEALTH = (1600, 700)
# Opens each category of images; how many are loaded.
LOADED = """
let loaded = 0;
const walk = (node) => node.querySelectorAll('*').forEach((child) => {
  const name = child.tagName.toLowerCase();
  if (name === 'tf-category-paginated-view') child.opened = true;
  if (name === 'img' && child.naturalWidth > 100) loaded += 1;
  if (child.shadowRoot) walk(child.shadowRoot);
});
walk(document);
return loaded;
"""
TABLE = (1500, 620)
# The texts of the table of HParams.
CELLS = """
const cells = [];
const walk = (node) => node.querySelectorAll('*').forEach((child) => {
  const name = child.tagName.toLowerCase();
  if (name === 'vaadin-grid-cell-content') cells.push(child.innerText.trim());
  if (child.shadowRoot) walk(child.shadowRoot);
});
walk(document);
return cells.filter((text) => text);
"""
# The cards lie in nested shadow roots. Gives [title, number of curves] of every card; with an
# argument that is true, opens each category and each card's list of curves. Drawing 64 runs in all
# of them takes minutes.
CARDS = """
const cards = [], open = arguments[0];
const walk = (node) => node.querySelectorAll('*').forEach((child) => {
  const name = child.tagName.toLowerCase();
  if (open && name === 'tf-category-paginated-view') child.opened = true;
  if (name === 'tf-custom-scalar-multi-line-chart-card') cards.push(child);
  if (name === 'tf-custom-scalar-margin-chart-card') cards.push(child);
  if (child.shadowRoot) walk(child.shadowRoot);
});
walk(document);
return cards.map((card) => {
  if (open) card.set('_matchesListOpened', true);
  const matches = card.shadowRoot.textContent.match(/Matches \\((\\d+)\\)/);
  return [card.title, matches ? Number(matches[1]) : 0];
});
"""
# Of more than 40 runs TensorBoard draws none before all are asked for. How many are drawn then, of
# how many.
CHOSEN = """
let told = [0, 0];
const walk = (node) => node.querySelectorAll('*').forEach((child) => {
  const name = child.tagName.toLowerCase();
  if (name === 'tf-runs-selector') {
    const box = child.shadowRoot.querySelector('#multiCheckbox');
    if (box.outSelected.length === 0) child.shadowRoot.querySelector('#toggle-all').click();
    told = [box.outSelected.length, box.names.length];
  }
  if (child.shadowRoot) walk(child.shadowRoot);
});
walk(document);
return told;
"""


@contextlib.contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Serve `logdir`; gives the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ["--host", "127.0.0.1", "--port", str(port), "--logdir", str(logdir)]
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *place],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: runs(address), f"{logdir}: TensorBoard shows no run there")
        yield address
    finally:
        server.terminate()
        server.wait()


def runs(address: str) -> bool:
    """Whether the server is up and has read a run."""
    try:
        with urlopen(f"{address}/data/runs", timeout=5) as answer:
            return answer.read().strip() != b"[]"
    except OSError:
        return False


def until(done: Callable[[], bool], complaint: str, seconds: float = 60) -> None:
    """Wait; SystemExit with the complaint when the time is over."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(complaint)
        time.sleep(0.5)


@contextlib.contextmanager
def browser(width: int, height: int) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def shoot(address: str, out: Path, whole: bool = True) -> list[tuple[str, int]]:
    """Open the first panel, or the `whole` page with every panel, wait until each chart has a curve
    of each run, write the picture."""
    with browser(*(SIZE if whole else HEALTH)) as driver:
        driver.get(f"{address}/#custom_scalars")

        def drawn() -> bool:
            chosen, there = driver.execute_script(CHOSEN)
            cards = driver.execute_script(CARDS, whole)
            own = [curves for _, curves in cards]
            # many runs are read one after the other
            return 0 < chosen == there and bool(own) and all(n >= there for n in own)

        until(drawn, "a chart stayed without the curves of all runs for 120 s", 120)
        driver.execute_script(CARDS, whole)  # opens the lists of the cards that came last
        time.sleep(3)  # the animation
        driver.save_screenshot(str(out))
        return driver.execute_script(CARDS, whole)


def shoot_images(address: str, out: Path) -> int:
    """The images tab, every tag open; how many images it shows."""
    with browser(*IMAGES) as driver:
        driver.get(f"{address}/#images")
        until(lambda: driver.execute_script(LOADED) > 0, "no image was shown for 60 s")
        time.sleep(2)
        driver.save_screenshot(str(out))
        return driver.execute_script(LOADED)


def shoot_hparams(address: str, out: Path) -> list[str]:
    """The table of HParams; the texts in it, heads first."""
    with browser(*TABLE) as driver:
        driver.get(f"{address}/#hparams")
        until(lambda: len(driver.execute_script(CELLS)) > 0, "no HParams were shown for 60 s")
        time.sleep(2)
        driver.save_screenshot(str(out))
        return driver.execute_script(CELLS)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    logdir, out = map(Path, sys.argv[1:3])
    with tensorboard(logdir) as address:
        if sys.argv[3:] == ["images"]:
            print(f"{shoot_images(address, out)} images")
        elif sys.argv[3:] == ["hparams"]:
            print(*shoot_hparams(address, out), sep="\n")
        else:
            for title, curves in shoot(address, out, sys.argv[3:] != ["health"]):
                print(f"{title}: {curves} curves")
