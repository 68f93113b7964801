"""The generated dataset: balanced, repeatable, honest masks, and nothing but the outline to tell kinds apart by."""

import numpy as np
import pytest
import torch

from ptd_core.data import shapes
from ptd_core.data.shape_kinds import KINDS, outlines
from ptd_core.errors import DataError

COUNT = 600
CLASSES = len(KINDS)


@pytest.fixture(scope="module")
def scene() -> shapes.Scene:
    return shapes.draw("train", COUNT, 32)


@pytest.fixture(scope="module")
def dataset():
    return shapes.load_shapes(subset=COUNT, test_subset=200)


def test_shapes_and_types(dataset):
    assert dataset.train.images.shape == (COUNT, 3, 32, 32) and dataset.train.images.dtype == torch.uint8
    assert dataset.train.labels.shape == (COUNT,) and dataset.train.labels.dtype == torch.int64
    assert dataset.train.masks.shape == (COUNT, 32, 32) and dataset.train.masks.dtype == torch.bool
    assert len(dataset.train) == COUNT and len(dataset.test) == 200
    assert dataset.classes == tuple(KINDS) and CLASSES >= 8


def test_labels_go_round(dataset):
    assert dataset.train.labels.tolist() == [i % CLASSES for i in range(COUNT)]


def test_same_again_and_a_smaller_number_is_a_prefix(scene):
    again = shapes.draw("train", 130, 32)
    for ours, theirs in zip(again, scene):
        assert np.array_equal(ours, theirs[:130])


def test_images_and_splits_differ(scene):
    assert len(np.unique(scene.images.reshape(COUNT, -1), axis=0)) == COUNT
    test = shapes.draw("test", COUNT, 32).images
    assert not (test == scene.images).all(axis=(1, 2, 3)).any()


def test_normalisation_is_the_statistics_of_the_training_pixels(dataset):
    pixels = dataset.train.images.double() / 255
    assert dataset.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=1e-9)
    assert dataset.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-9)


def test_mask_is_where_the_object_colour_is(scene):
    error = np.abs(scene.images / 255 - scene.colours[:, None, None]).mean(axis=3)
    inside = np.array([e[m].mean() for e, m in zip(error, scene.masks)])
    outside = np.array([e[~m].mean() for e, m in zip(error, scene.masks)])
    assert inside.max() < 0.25  # shading and soft edges only
    assert (outside > inside + 0.05).mean() > 0.98


def test_mask_area_is_the_area_drawn(scene):
    share = scene.masks.mean(axis=(1, 2))
    assert share == pytest.approx(scene.areas, abs=0.02)
    assert shapes.AREA[0] <= scene.areas.min() and scene.areas.max() <= shapes.AREA[1]


def test_mask_lies_about_its_centre_and_within_the_image(scene):
    axis = (np.arange(32) + 0.5) / 32
    for mask, centre in zip(scene.masks, scene.centres):
        rows, columns = np.nonzero(mask)
        assert [axis[columns].mean(), axis[rows].mean()] == pytest.approx(centre, abs=0.03)
    border = np.ones((32, 32), bool)
    border[1:-1, 1:-1] = False
    assert scene.masks[:, border].mean() < 0.005


def test_object_is_one_piece_and_only_ring_and_frame_have_a_hole():
    scene = shapes.draw("train", 100, 64)
    for mask, label in zip(scene.masks, scene.labels):
        kind = list(KINDS)[label]
        # A pixel or two may break off at the tips of a crescent.
        assert max(piece_sizes(mask)) > 0.98 * mask.sum(), kind
        ground = piece_sizes(~np.pad(mask, 1))
        assert sum(size > 4 for size in ground) == (2 if kind in ("ring", "frame") else 1), kind


def piece_sizes(mask: np.ndarray) -> list[int]:
    """Pixels in each connected piece (4 neighbours), by flooding."""
    left = {(int(row), int(column)) for row, column in zip(*np.nonzero(mask))}
    pieces = []
    while left:
        pieces.append(0)
        front = [left.pop()]
        while front:
            row, column = front.pop()
            pieces[-1] += 1
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & left
            left -= near
            front += near
    return pieces


# Areas by geometry; the module measures its own on a grid.
TRUE_AREAS = {
    "disc": np.pi,
    "ring": 0.7 * np.pi,
    "square": 4.0,
    "frame": 4 * (1 - 0.55**2),
    "triangle": 0.75 * 3**0.5,
    "star": 10 * 0.5 * 0.45 * np.sin(np.pi / 5),
    "cross": 4 * (2 * 0.34 - 0.34**2),
    "half disc": np.pi / 2,
}


@pytest.mark.parametrize("kind", TRUE_AREAS)
def test_outline_area_by_geometry(kind):
    assert outlines()[list(KINDS).index(kind)].area == pytest.approx(TRUE_AREAS[kind], rel=0.005)


def nearest_mean_accuracy(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, labels: np.ndarray) -> float:
    means = np.stack([train[train_labels == c].mean(axis=0) for c in range(CLASSES)])
    guesses = ((test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    return float((guesses == labels).mean())


def test_colour_place_and_size_say_nothing_about_the_kind():
    train, test = shapes.draw("train", 3000, 16), shapes.draw("test", 2000, 16)
    cues = {
        "object colour": lambda s: s.colours,
        "mean colour": lambda s: s.images.mean(axis=(1, 2)),
        "place and area": lambda s: np.column_stack([s.centres, s.areas]),
    }
    for name, cue in cues.items():
        # Chance is 0.1, with a standard deviation of 0.0067 over 2,000 images.
        assert nearest_mean_accuracy(cue(train), train.labels, cue(test), test.labels) < 0.13, name


def test_the_outline_does_say_it(scene):
    """The same judge, given how mask pixels are spread about their centre: so the test above can fail."""
    axis = np.arange(32)

    def spread(masks: np.ndarray) -> np.ndarray:
        values = []
        for mask in masks:
            rows, columns = np.nonzero(mask)
            distance = np.hypot(axis[rows] - rows.mean(), axis[columns] - columns.mean()) / np.sqrt(mask.sum())
            values.append([distance.mean(), distance.min(), distance.max()])
        return np.array(values)

    test = shapes.draw("test", 200, 32)
    assert nearest_mean_accuracy(spread(scene.masks), scene.labels, spread(test.masks), test.labels) > 0.4


@pytest.mark.parametrize("size", [16, 33])
def test_other_image_sizes_show_the_same_objects(size, scene):
    other = shapes.draw("train", 100, size)
    assert other.images.shape == (100, size, size, 3)
    assert np.array_equal(other.centres, scene.centres[:100]) and np.array_equal(other.areas, scene.areas[:100])
    assert other.masks.mean(axis=(1, 2)) == pytest.approx(other.areas, abs=0.04)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": 15}, ["16", "15"]),
        ({"subset": 8001}, ["8001", "8000"]),
        ({"subset": 100, "test_subset": 2001}, ["2001", "2000"]),
        ({"subset": 9}, ["9", "10 classes"]),
        ({"subset": -1}, ["-1"]),
    ],
)
def test_refusals_name_the_numbers(arguments, words):
    with pytest.raises(DataError) as refusal:
        shapes.load_shapes(**arguments)
    assert all(word in str(refusal.value) for word in words)
