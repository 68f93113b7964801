"""A mapped file's pages: what was read is let go again, and reads as before."""

import mmap
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

from ptd_core.data import batches as batches_module
from ptd_core.data import dataset as dataset_module
from ptd_core.data import pages as pages_module
from ptd_core.data.augment import Augmentation
from ptd_core.data.batches import Batches
from ptd_core.data.dataset import Dataset, Split, pixel_statistics
from ptd_core.data.pages import Pages

SIDE, IMAGES = 256, 512
IMAGE_BYTES = 3 * SIDE * SIDE  # 96 MiB in all
MIB = 2**20


@pytest.fixture
def pixels(tmp_path):
    file = tmp_path / "images.pixels"
    file.write_bytes(np.random.default_rng(0).integers(0, 256, IMAGES * IMAGE_BYTES, dtype=np.uint8).tobytes())
    return file


def mapped(pages):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(pages.bytes)


@pytest.fixture
def splits(pixels, monkeypatch):
    """The same images mapped, and in memory."""
    monkeypatch.setattr(dataset_module, "CHUNK_BYTES", MIB)
    monkeypatch.setitem(batches_module.BYTES_AHEAD, "cpu", MIB)
    pages = Pages(pixels)
    labels = torch.arange(IMAGES) % 10
    shape = (IMAGES, 3, SIDE, SIDE)
    resident = torch.from_numpy(np.fromfile(pixels, np.uint8))
    return Split(mapped(pages).view(shape), labels, mapped=pages), Split(resident.view(shape), labels)


def mapped_bytes(file):
    """How much of a mapped file the process holds."""
    held, ours = 0, False
    with open("/proc/self/smaps") as maps:
        for line in maps:
            if "-" in line.split(" ")[0]:
                ours = line.rstrip().endswith(str(file))
            elif ours and line.startswith("Rss:"):
                held += 1024 * int(line.split()[1])
    return held


def largest(file, doing):
    """What it held at most while something was done; the test's own way of looking on."""
    peak, over = [0], threading.Event()

    def watch():
        while not over.is_set():
            peak[0] = max(peak[0], mapped_bytes(file))
            over.wait(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        doing()
    finally:
        over.set()
        watcher.join()
    return max(peak[0], mapped_bytes(file))


def of_training(split):
    return [batch.images for batch in Batches(split, 4, Augmentation(crop_padding=2, flip=True)).epoch(0)]


def of_evaluation(split):
    return [batch.images for batch in split.batches(4)]


def digest(split):
    return [Dataset("d", split, split, tuple("abcdefghij"), (0.5,) * 3, (0.2,) * 3).digest]


def statistics(split):
    return pixel_statistics(split.images, split.mapped)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/smaps")
@pytest.mark.parametrize("reader", [of_training, of_evaluation, digest, statistics])
def test_a_reader_of_a_whole_file_holds_little_of_it(splits, pixels, reader):
    large, resident = splits
    found = []
    assert largest(pixels, lambda: found.extend(reader(large))) < 40 * MIB < 96 * MIB == pixels.stat().st_size
    for one, two in zip(found, reader(resident), strict=True):
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="nothing is let go here")
@pytest.mark.parametrize("rows", [[0], [1], [2, 0], [0, 0, 1], None])
def test_all_of_each_image_is_let_go_with_its_window(pixels, monkeypatch, rows):
    """Images of 3 bytes from the second byte on, windows of 2: 1-3, 4-6, 7-9."""
    monkeypatch.setattr(pages_module, "WINDOW", 2)
    pages, asked = Pages(pixels), set()
    pages._map = type("Map", (), {"madvise": lambda self, how, start, length: asked.add((start, length))})()
    pages.let_go(mapped(pages)[1:10].view(3, 3), rows and torch.tensor(rows))
    reach = {byte for start, length in asked for byte in range(start, start + length)}
    wanted = {1 + 3 * row + byte for row in (rows or range(3)) for byte in range(3)}
    assert wanted <= reach and reach == {byte for one in wanted for byte in (one // 2 * 2, one // 2 * 2 + 1)}


def test_an_empty_file_cannot_be_mapped(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty"):
        Pages(tmp_path / "empty")
