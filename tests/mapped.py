"""An image folder's pictures, resident and mapped from a file in the `cache` beside it."""

import torch

from ptd_core.data.load import load

SIDE, IMAGES = 16, 48  # image_folder's pictures, at this size
BYTES = IMAGES * 3 * SIDE * SIDE
RUN = {"dataset": "folder", "subset": 0, "test_subset": 0, "batch_size": 12}  # of a `tiny` recipe


def resident(folder, **options):
    return load("folder", folder, image_size=SIDE, **options)


def mapped(folder, **options):
    return resident(folder, images="mapped", cache_dir=folder.parent / "cache", **options)


def files(folder, suffix):
    return sorted((folder.parent / "cache").glob(f"*{suffix}"))


def same(one, two):
    assert torch.equal(one.train.images, two.train.images) and torch.equal(one.test.images, two.test.images)
    assert torch.equal(one.train.labels, two.train.labels) and torch.equal(one.test.labels, two.test.labels)
    assert (one.mean, one.std, one.classes, one.digest) == (two.mean, two.std, two.classes, two.digest)
