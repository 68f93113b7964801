"""Choosing a dataset and a subset of it."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ptd_core import paths
from ptd_core.data.dataset import Split, balanced_subset, pixel_statistics
from ptd_core.data.load import load
from ptd_core.errors import DataError
from ptd_core.paths import resolve_data_dir


def test_load_shapes_needs_no_folder():
    data = load("shapes", "/nowhere", image_size=16, subset=30, test_subset=20)
    assert (data.name, len(data.train), len(data.test)) == ("shapes", 30, 20)
    assert data.train.images.shape == (30, 3, 16, 16) and data.train.masks is not None


def test_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(DataError, match=r"'imagenet'.*shapes, cifar100, cifar10, folder and parquet"):
        load("imagenet", ".")


@pytest.mark.parametrize("size", [5, 7, 12, 23, 40])
def test_balanced_subset_is_the_first_of_each_class_in_file_order(size):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 8))
    chosen = balanced_subset(labels, size, 5, "images")
    counts = np.bincount(labels[chosen], minlength=5)
    assert len(chosen) == size and (np.diff(chosen) > 0).all() and counts.max() - counts.min() <= 1
    for c in range(5):
        assert chosen[labels[chosen] == c].tolist() == np.flatnonzero(labels == c)[: counts[c]].tolist()


def test_larger_subset_contains_the_smaller_and_zero_means_all():
    labels = np.random.default_rng(1).integers(0, 4, 100)
    subsets = [set(balanced_subset(labels, size, 4, "images").tolist()) for size in range(4, 40)]
    assert all(small < large for small, large in pairwise(subsets))
    assert balanced_subset(labels, 0, 4, "images").tolist() == list(range(100))


def test_uneven_classes_supply_what_they_can():
    labels = np.array([0, 0, 0, 1, 1])
    assert balanced_subset(labels, 5, 2, "images").tolist() == [0, 1, 2, 3, 4]
    assert balanced_subset(labels, 3, 2, "images").tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("labels", "size", "words"),
    [
        ([0, 1, 0, 1], 5, ["5", "4"]),
        ([0, 1, 0, 1], 1, ["1", "2 classes"]),
        ([0, 0, 0, 0, 1], 4, ["4", "class 1 has 1", "at most 3"]),
        ([0, 0, 0, 0, 1, 1], 6, ["6", "class 1 has 2", "at most 5"]),
        ([0, 0, 0, 0], 2, ["class 1 has 0"]),
        ([0, 1], -3, ["-3"]),
    ],
)
def test_subset_that_cannot_be_had_is_refused(labels, size, words):
    with pytest.raises(DataError) as refusal:
        balanced_subset(np.array(labels), size, 2, "images")
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_pixel_statistics_equal_a_direct_computation():
    images = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = pixel_statistics(images)
    pixels = images.double() / 255
    assert mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=1e-12)
    assert std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_pixel_statistics_of_flat_images_can_be_divided_by():
    assert pixel_statistics(torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)) == (
        pytest.approx((0.2, 0.2, 0.2)),
        pytest.approx((1 / 255,) * 3),
    )


def test_relative_folder_is_looked_for_here_first_then_in_the_project(tmp_path, monkeypatch):
    project, here = tmp_path / "project", tmp_path / "here"
    (project / "data").mkdir(parents=True)
    here.mkdir()
    monkeypatch.setattr(paths, "PROJECT_ROOT", project)
    monkeypatch.chdir(here)
    assert resolve_data_dir("data") == project / "data"
    assert resolve_data_dir("not/yet") == project / "not/yet"
    (here / "data").mkdir()
    assert resolve_data_dir("data").resolve() == here / "data"
    assert resolve_data_dir(tmp_path / "absent") == tmp_path / "absent"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_data_dir("~/x") == Path(tmp_path / "x")


def sorted_by_class(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.arange(len(labels)).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(torch.uint8)
    return Split(images, labels, (images[:, 0] > 3))


@pytest.mark.parametrize("counts", [[30] * 8, [1, 2, 40, 40]])
def test_part_of_images_sorted_by_class_has_every_class(counts):
    split = sorted_by_class(counts)
    for count in (1, len(counts), 20, 41):
        part = split.part(count)
        shares = torch.bincount(part.labels, minlength=len(counts))
        assert len(part) == count and len({image[0, 0, 0].item() for image in part.images}) == count
        full = shares == torch.tensor(counts)  # a class that has no more to give
        assert shares.max() - shares[~full].min() <= 1
        assert torch.equal(split.labels[part.images[:, 0, 0, 0].long()], part.labels)
        assert torch.equal(part.masks, part.images[:, 0] > 3)
        assert torch.equal(part.images, split.part(41).images[:count])
    assert split.part(sum(counts)) is split


def test_constant_answer_has_chance_accuracy_on_a_part():
    assert (sorted_by_class([25] * 8).part(100).labels == 0).float().mean() == pytest.approx(1 / 8, abs=0.01)


def test_digest_knows_images_labels_and_class_names():
    data = load("shapes", "", image_size=16, subset=20, test_subset=10)
    again = load("shapes", "", image_size=16, subset=20, test_subset=10)
    assert data.digest == again.digest == dataclasses.replace(again, name="moved").digest

    def changed(split, name):
        value = getattr(split, name).clone()
        value[-1] ^= 1
        return dataclasses.replace(split, **{name: value})

    others = [
        dataclasses.replace(data, classes=data.classes[::-1]),
        dataclasses.replace(data, train=data.test, test=data.train),
        *(dataclasses.replace(data, train=changed(data.train, name)) for name in ("images", "labels")),
        *(dataclasses.replace(data, test=changed(data.test, name)) for name in ("images", "labels")),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 1 + len(others)
