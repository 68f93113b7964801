"""Which folders are taken for training and for test."""

import pytest
from test_image_folder import read, save

from ptd_core.errors import DataError


def make(folder, parts, classes=("ant", "bee"), count=1):
    """Images in folder/PART/CLASS; the red channel numbers the part."""
    for p, part in enumerate(parts):
        for c, name in enumerate(classes):
            for i in range(count):
                save(folder / part / name / f"{i}.png", (50 * p, 100 * c, 0))
    return folder


@pytest.mark.parametrize(
    "parts",
    [
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("train", "valid"),
        ("Training", "Validation"),
        ("trn", "tst"),
        ("training", "testing"),
        ("seg_train", "seg_test"),
        ("Seg_Train", "seg_test"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("data/inner/Train", "data/inner/Test"),
        ("train/images", "test/images"),
    ],
    ids="-".join,
)
def test_usual_names_of_parts(tmp_path, parts):
    data = read(make(tmp_path, parts))
    assert data.classes == ("ant", "bee")
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 0] and data.test.images[:, 0, 0, 0].tolist() == [50, 50]
    assert data.notes == (f"{tmp_path / parts[0]} is taken for training, {tmp_path / parts[1]} for test",)


def test_test_is_used_before_val_and_both_are_told(tmp_path):
    data = read(make(tmp_path, ("train", "valid", "test", "other")))
    assert data.test.images[:, 0, 0, 0].tolist() == [100, 100]
    assert data.notes[0].endswith("/test for test; not used: other/, valid/")


def test_val_is_used_if_test_has_no_classes(tmp_path):
    make(tmp_path, ("train", "val"))
    save(tmp_path / "test" / "0.png")
    assert read(tmp_path).test.images[:, 0, 0, 0].tolist() == [50, 50]


def test_a_class_may_have_a_parts_name_within_a_part(tmp_path):
    assert read(make(tmp_path, ("train", "test"), ("bus", "train"))).classes == ("bus", "train")


def test_a_longer_name_with_a_parts_word_is_a_class(tmp_path):
    assert read(make(tmp_path, ("bullet_train", "bus"), (".",), 5)).classes == ("bullet_train", "bus")


@pytest.mark.parametrize(
    "parts, said",
    [
        (("Train", "other"), r"Train/ but neither test/ nor val/"),
        (("test", "other"), r"test/, which is the name of a part, but no train/"),
        (("Valid", "invalid"), r"Valid/, which is the name of a part"),
        (("seg_train", "seg_pred"), r"seg_train/ but neither"),
        (("seg_train", "my_test"), r"my_test/, which is the name of a part"),
        (("train", "Train", "test"), r"Train/, train/, which all mean the train part"),
        (("train", "val", "valid"), r"val/, valid/, which all mean the val part"),
        (("a_train", "a_test", "b_train", "b_test"), r"several sets of parts"),
    ],
)
def test_unclear_parts_are_refused(tmp_path, parts, said):
    with pytest.raises(DataError, match=said):
        read(make(tmp_path, parts, count=5))


def test_wrappers_in_a_circle_end(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path)
    with pytest.raises(DataError):
        read(tmp_path)
