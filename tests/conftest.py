"""Fixtures that several test modules share."""

import dataclasses
import os
import shutil
import subprocess
import sys

import dask
import forked
import pytest
import torch
from filelock import FileLock
from patience import PATIENCE
from reach import Bench
from sketch import sketch

from ptd_core.data import image_folder
from ptd_core.data import load as data
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.progress import Progress
from ptd_core.recipe import Recipe
from ptd_core.views import curves

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
SCREENSHOTS = ROOT / "screenshots"
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
TINY = {
    "subset": 160, "test_subset": 60, "image_size": 16, "stem_width": 4, "stem_stride": 2, "embed_dim": 16,
    "depth": 2, "num_heads": 2, "batch_size": 32, "epochs": 3, "drop_start": 0, "drop_end": 2, "drop_final": 0.5,
    "rand_ops": 1, "erase": 0.3, "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "dropout": 0.1, "drop_path": 0.1,
    "device": "cpu", "precision": "fp32",
}  # fmt: skip


class Lines(Progress):
    """Progress that remembers what it printed."""

    def __init__(self):
        super().__init__(bar=False)
        self.printed = []

    def print(self, text):
        self.printed.append(text)


CLOCKS = ("train_seconds", "data_seconds", "eval_seconds", "images_per_second", "compile_seconds")


def without_clocks(records):
    return [dataclasses.replace(record, **dict.fromkeys(CLOCKS, 0.0)) for record in records]


def equal(one, two):
    """Bit for bit, through nested dicts, lists and tensors; NaN equals NaN."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[name], two[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(equal, one, two))
    return one == two or (one != one and two != two)


@pytest.fixture
def tiny(tmp_path):
    """A function from settings to a recipe that trains in a second and writes into the test's own folder."""
    return lambda **settings: Recipe(**{**TINY, "out_dir": str(tmp_path), "run": "tiny", **settings})


@pytest.fixture(scope="session")
def tiny_shapes():
    """The data of `tiny` recipes."""
    return data.load("shapes", "", image_size=16, subset=160, test_subset=60)


@pytest.fixture(scope="session")
def real_cifar100():
    """The folder of real CIFAR-100 beside the project; tests that need it say so when it is not there."""
    folder = ROOT.parent / "shared" / "cifar100"
    if not folder.exists():
        pytest.skip("real CIFAR-100 is not at ../shared/cifar100")
    return folder


@pytest.fixture(scope="session")
def real_jpegs():
    """Real photographs in class folders beside the project; tests that need them say so when they are not there."""
    folder = ROOT.parent / "shared" / "cifar10_jpeg"
    if not folder.exists():
        pytest.skip("real photographs are not at ../shared/cifar10_jpeg")
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files of image folders that are decoded, as they are."""
    seen, read = [], image_folder.read_image

    def reading(file, image_size, name=""):
        seen.append(file.name)
        return read(file, image_size, name)

    monkeypatch.setattr(image_folder, "read_image", reading)
    return seen


@pytest.fixture(autouse=True)
def _few_threads():
    """The same sums in the same order wherever the tests run."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _sketched(request, monkeypatch):
    """Runs of this process save their figures without drawing them, but for tests marked `drawn`."""
    if request.node.get_closest_marker("drawn") is None:
        monkeypatch.setattr(curves, "save_figure", sketch)


@pytest.fixture(scope="session")
def executed(tmp_path_factory, worker_folder):
    """The notebook that papermill writes, by the command as a reader types it, from the chapters' own folder.

    One for all processes of the tests.
    """
    pytest.importorskip("papermill", reason="papermill is not installed")
    out = worker_folder / "executed" / "out.ipynb"
    with FileLock(worker_folder / "executed.lock"):
        if not out.exists():
            out.parent.mkdir(exist_ok=True)
            parameters = {**TINY, "out_dir": out.parent, "run": "tiny"}
            command = [sys.executable, "-m", "papermill", "ptd.ipynb", out.with_suffix(".part.ipynb")]
            command += [word for name, value in parameters.items() for word in ("-p", name, str(value))]
            done = subprocess.run(command, cwd=ROOT / "book", capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            out.with_suffix(".part.ipynb").rename(out)
    return out


@pytest.fixture(scope="session")
def worker_folder(tmp_path_factory):
    """A folder of this run of the tests that all of its processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def forked_kernels(monkeypatch):
    """Kernels of this process need not import PyTorch again."""
    monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", forked.launch_kernel)


@pytest.fixture(scope="module")
def forked_workers():
    """Workers that this process starts need not import PyTorch again."""
    forked.server()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.fixture(scope="session")
def browser():
    """The machine's own Chromium, driven by Playwright; tests that need it say so where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """A function from an address to a loaded page whose every error is collected and forbidden at the end."""
    contexts, errors = [], []

    def open_at(address: str, width: int = 1280, offline: bool = False):
        context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True, offline=offline)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert errors == []


def screenshot(page, name: str) -> None:
    """Kept for people to look at: screenshots/NAME.png, git-ignored."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.fixture
def bench(tiny, tiny_shapes, tmp_path, monkeypatch):
    """For checks of single settings, see `reach`."""
    return Bench(tiny, tiny_shapes, tmp_path, monkeypatch)
