"""Mapped images and other processes: killed writers, writers at once, killed runs, and how much memory it all takes."""

import os
import signal
import sys

import forked
import mapping
import numpy as np
import pytest
import torch
from conftest import Lines, equal, without_clocks
from mapped import IMAGES, RUN, SIDE
from patience import PATIENCE
from photographs import image_folder, photograph

from ptd_core.data.load import load
from ptd_core.run import execute

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL, and memory as /proc tells it"),
]
SMALL = {"image_size": SIDE, "images": "mapped"}


@pytest.fixture(scope="module")
def server():
    return forked.server()


@pytest.fixture
def folder(tmp_path):
    return image_folder(tmp_path / "pictures")


def ended(process):
    process.join(PATIENCE)
    return process.exitcode


def test_a_killed_writer_loses_little(server, folder, tmp_path):
    for kill_at in (5, 20, 25):
        counter = server.Value("q", 0)
        process = server.Process(target=mapping.decode, args=(folder, tmp_path / "cache", SIDE, counter, kill_at))
        process.start()
        assert ended(process) == -signal.SIGKILL
    counter = server.Value("q", 0)
    process = server.Process(target=mapping.decode, args=(folder, tmp_path / "cache", SIDE, counter))
    process.start()
    assert ended(process) == 0
    # Lost are those that waited for the images before them, and what came after the last flush.
    assert counter.value < IMAGES - 15
    found = load("folder", folder, cache_dir=tmp_path / "cache", **SMALL)
    truth = load("folder", folder, image_size=SIDE)
    assert torch.equal(found.train.images, truth.train.images) and found.digest == truth.digest


def test_of_writers_at_once_one_decodes(server, folder, tmp_path):
    counter = server.Value("q", 0)
    processes = [
        server.Process(target=mapping.decode, args=(folder, tmp_path / "cache", SIDE, counter)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    assert [ended(process) for process in processes] == [0, 0, 0]
    assert counter.value == IMAGES
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1
    found = load("folder", folder, cache_dir=tmp_path / "cache", **SMALL)
    assert found.digest == load("folder", folder, image_size=SIDE).digest


def test_a_run_that_is_killed_ends_the_same(server, folder, tiny, tmp_path):
    place = {"data_dir": str(folder), "cache_dir": str(tmp_path / "cache")}
    whole = execute(tiny(**RUN, **place, run="whole"), Lines())
    hurt = tiny(**RUN, **place, images="mapped", run="hurt", checkpoint_seconds=1e-6)
    for at in ((0, 2), (1, 1), (2, 3)):
        process = server.Process(target=mapping.train, args=(hurt, at))
        process.start()
        assert ended(process) == -signal.SIGKILL
    resumed = execute(hurt, Lines())
    assert without_clocks(resumed.records) == without_clocks(whole.records)
    assert equal(resumed.trainer.state_dict()["model"], whole.trainer.state_dict()["model"])


def test_memory_does_not_grow_with_the_images(server, tmp_path):
    """2,000 images of 224 px are 301 MB."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 850), ("test", 150)):
        for name in ("ant", "bee"):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            first = tmp_path / "pictures" / part / name / "0.png"
            first.write_bytes(photograph(rng))
            for i in range(1, count):
                os.link(first, first.with_name(f"{i}.png"))
    answer = server.SimpleQueue()
    process = server.Process(target=mapping.everything, args=(tmp_path / "pictures", tmp_path / "cache", 224, answer))
    process.start()
    assert ended(process) == 0
    grown, size = answer.get()
    assert size == 2000 * 3 * 224 * 224
    assert grown < size / 2, f"{grown / 1e6:.0f} MB of {size / 1e6:.0f} MB"
