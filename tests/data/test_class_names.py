"""Names for classes from a file beside them, and ImageNet's layout."""

import pytest
from test_image_folder import read, save

from ptd_core.errors import DataError

SYNSETS = ("n01440764", "n02012849", "n03126707")


@pytest.fixture
def imagenet(tmp_path):
    """ImageNet's layout in miniature: synsets as folders, .JPEG as ending."""
    for part, count in (("train", 3), ("val", 1)):
        for c, name in enumerate(SYNSETS):
            for i in range(count):
                save(tmp_path / part / name / f"{name}_{i}.JPEG", (100 * c, 10 * i, 5), format="JPEG")
    return tmp_path


MAPPING = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\nn09999999 not here\n"


def test_imagenets_layout_is_read(imagenet):
    data = read(imagenet)
    assert data.classes == SYNSETS and data.folders == () and (len(data.train), len(data.test)) == (9, 3)


@pytest.mark.parametrize("name", ["LOC_synset_mapping.txt", "class_names.txt"])
def test_classes_are_called_as_the_file_says_and_stay_the_same_data(imagenet, name):
    before = read(imagenet)
    (imagenet / name).write_text(MAPPING)
    data = read(imagenet)
    assert data.classes == ("tench", "crane (n02012849)", "crane (n03126707)")
    assert data.notes == (*before.notes, f"names of classes from {imagenet / name}")
    assert data.folders == SYNSETS and data.digest == before.digest


def test_names_lie_beside_class_folders_or_their_parts(tmp_path):
    for name in ("a b", "c"):
        for i in range(5):
            save(tmp_path / "inner" / name / f"{i}.png")
    (tmp_path / "inner" / "class_names.txt").write_text("\ufeffc\tthe second\r\na b\tthe first, or so\r\n\r\n")
    data = read(tmp_path / "inner")
    assert data.classes == ("the first", "the second") and len(data.notes) == 2  # it is no file left out
    parts = tmp_path / "outer" / "CLS-LOC"
    for part in ("train", "val"):
        (parts / part).parent.mkdir(parents=True, exist_ok=True)
        for name in ("c", "d"):
            save(parts / part / name / "0.png")
    (parts / "LOC_synset_mapping.txt").write_text("c one\nd two\n")
    assert read(tmp_path / "outer").classes == ("one", "two")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MAPPING.replace("n02012849 crane\n", ""), r"has no name for n02012849\. Add a line for each"),
        ("n09999999 other\n", r"has no name for n01440764 and 2 more\."),
        (MAPPING + "n01484850\n", r"line 5: 'n01484850' should be a class folder, a space and its name"),
        (MAPPING + "n01484850 , shark\n", r"line 5: 'n01484850 , shark' should be"),
        ("n01440764 caf\udce9\n", r"LOC_synset_mapping\.txt cannot be read .* text in UTF-8"),
    ],
)
def test_a_file_that_does_not_name_all_classes_is_refused(imagenet, text, said):
    (imagenet / "LOC_synset_mapping.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=said):
        read(imagenet)


def test_flat_validation_images_are_refused_with_what_to_do(imagenet):
    for path in list((imagenet / "val").rglob("*.JPEG")):
        path.rename(imagenet / "val" / path.name)
    for folder in list((imagenet / "val").glob("n*/")):
        if folder.is_dir():
            folder.rmdir()
    (imagenet / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n")
    with pytest.raises(DataError, match=r"val has images but no class folders\. Move each image into a folder named"):
        read(imagenet)


def test_folders_with_spaces_and_accents_are_found_in_the_file(tmp_path):
    """Without tabs, and in the other of two spellings of an accent."""
    for name in ("caf\u00e9", "sea", "sea lion"):
        for i in range(5):
            save(tmp_path / name / f"{i}.png")
    (tmp_path / "class_names.txt").write_text("cafe\u0301 coffee\nsea lion Zalophus\nsea the water\n")
    assert read(tmp_path).classes == ("coffee", "the water", "Zalophus")


def test_where_a_class_has_no_test_image_a_subset_of_them_is_refused_with_what_works(imagenet):
    (imagenet / "val" / SYNSETS[2] / f"{SYNSETS[2]}_0.JPEG").unlink()
    (imagenet / "val" / SYNSETS[2]).rmdir()
    assert len(read(imagenet).test) == 2
    save(imagenet / "val" / SYNSETS[0] / "more.JPEG", format="JPEG")
    with pytest.raises(DataError, match=r"class n03126707 has 0\. Ask for 0 \(all of them\)\."):
        read(imagenet, test_subset=3)
