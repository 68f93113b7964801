"""A JupyterLab of the tests' own (its folder, settings, token and port), and what a reader does with the explorers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat

from ptd_core.paths import PROJECT_ROOT as ROOT

BOOK = ROOT / "book"
SCHEDULE, SALIENCY = "iframe[title='Schedule explorer']", "iframe[title='Saliency explorer']"
SETTINGS = {
    # Cells outside the window stay on the page, where a test can look for them; no question about news.
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
}


def write_chapter(chapter: str, folder: Path, parameters: dict, *cells: str) -> Path:
    """The chapter in `folder` with other values in its parameters cell and more cells, paired as in the book."""
    (folder / "jupytext.toml").write_bytes((BOOK / "jupytext.toml").read_bytes())
    notebook = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(notebook, folder / f"{chapter}.ipynb")
    subprocess.run([sys.executable, "-m", "jupytext", "--sync", f"{chapter}.ipynb"], cwd=folder, check=True)
    assert jupytext.read(folder / f"{chapter}.py").cells[0].cell_type == "markdown"
    return folder / f"{chapter}.ipynb"


class Lab:
    """`python -m jupyterlab` serving `folder`; `address(path)` opens a file of it."""

    def __init__(self, folder: Path, state: Path):
        self.folder = folder
        self.opened = 0
        settings = state / "settings"
        for name, values in SETTINGS.items():
            path = settings / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "JUPYTERLAB_SETTINGS_DIR": str(settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(state / "workspaces"),
            "JUPYTER_CONFIG_DIR": str(state / "config"),
            "JUPYTER_DATA_DIR": str(state / "data"),  # notebooks that this Lab trusts
            "JUPYTER_RUNTIME_DIR": str(state / "runtime"),
            "IPYTHONDIR": str(state / "ipython"),
        }
        self.log = open(state / "lab.log", "wb")
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.port=0", "--allow-root"]
        command += ["--ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=subprocess.STDOUT)
        self.server = self._wait(state / "runtime")

    def _wait(self, runtime: Path) -> dict:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and self.process.poll() is None:
            for path in runtime.glob("jpserver-*.json"):
                try:
                    return json.loads(path.read_text())
                except ValueError:
                    pass  # it is being written
            time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start:\n{Path(self.log.name).read_text()[-3000:]}")

    def address(self, path: str) -> str:
        self.opened += 1  # a workspace for each, or Lab opens the notebooks of the page before as well
        return f"{self.server['url']}lab/workspaces/{self.opened}/tree/{path}?token={self.server['token']}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


def use_both_explorers(page):
    """What a reader does with them, by mouse and by keyboard; `page` shows the chapter ptd anywhere."""
    schedule, saliency = page.frame_locator(SCHEDULE), page.frame_locator(SALIENCY)
    picture = schedule.locator("svg.picture")
    curve = schedule.locator("path.chosen[data-quantity=ratios]")
    kept, drawn = picture.get_attribute("data-kept"), curve.get_attribute("d")
    slider = schedule.locator("#drop_final")
    slider.focus()
    for _ in range(5):  # one step of 0.01 need not cost a whole token
        slider.press("ArrowLeft")
    assert picture.get_attribute("data-kept") != kept and curve.get_attribute("d") != drawn
    by_key = picture.get_attribute("data-kept")
    box = slider.bounding_box()
    slider.click(position={"x": 0.9 * box["width"], "y": box["height"] / 2})
    assert picture.get_attribute("data-kept") not in (kept, by_key)

    def state():
        fills = saliency.locator("rect.saliency").evaluate_all(
            "cells => cells.map((cell) => cell.getAttribute('fill'))"
        )
        return fills, saliency.locator("#summary").text_content()

    seen = [state()]
    saliency.locator("[data-image='7']").click()
    seen.append(state())
    saliency.locator("[data-image='7']").press("ArrowRight")
    seen.append(state())
    saliency.locator("#block").press("ArrowRight")
    seen.append(state())
    assert len({tuple(fills) for fills, _ in seen}) == 4
    assert len({summary for _, summary in seen}) >= 3  # the answer does not depend on the block that is shown
