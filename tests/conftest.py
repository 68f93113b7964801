"""Fixtures that several test modules share."""

from pathlib import Path

import pytest
import torch

from ptd_core import data
from ptd_core.recipe import Recipe

TINY = {
    "subset": 160, "test_subset": 60, "image_size": 16, "stem_width": 4, "stem_stride": 2, "embed_dim": 16,
    "depth": 2, "num_heads": 2, "batch_size": 32, "epochs": 3, "drop_start": 0, "drop_end": 2, "drop_final": 0.5,
    "rand_ops": 1, "erase": 0.3, "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "dropout": 0.1, "drop_path": 0.1,
    "device": "cpu",
}  # fmt: skip


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
    folder = Path(__file__).parent.parent.parent / "shared" / "cifar100"
    if not folder.exists():
        pytest.skip("real CIFAR-100 is not at ../shared/cifar100")
    return folder


@pytest.fixture(autouse=True)
def _few_threads():
    """The same sums in the same order wherever the tests run."""
    torch.set_num_threads(1)
