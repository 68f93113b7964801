"""Which folders hold the training and the test images: parts are found by their usual names."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ptd_core.data.folder_files import class_name, holds_images, subfolders
from ptd_core.errors import DataError
from ptd_core.paths import readable

ROLES = {
    "train": "train", "training": "train", "trn": "train",
    "test": "test", "testing": "test", "tst": "test",
    "val": "val", "valid": "val", "validation": "val",
}  # fmt: skip
# The role's word, with what all parts may have in common before and after it: seg_train, training_set, val2017.
_NAME = re.compile(rf"(.*[_\-. ])?({'|'.join(ROLES)})((?:[_\-. \d].*|set|data)?)", re.IGNORECASE)
_WRAPPERS = 8  # folders in folders that are looked through, so that links in a circle end


@dataclass(frozen=True)
class Parts:
    """The folders of classes: training images, test images. note: what was taken for what."""

    train: Path
    held_out: Path
    note: str


def find_parts(folder: Path) -> Parts | None:
    """The parts in `folder`, or in the one folder that it holds, and so on; None for classes without parts.

    train, training or trn beside test, testing or tst, or else beside val, valid or validation; in any case of
    letters, all with the same beginning and end of their names (seg_train, seg_test). A part may lie within a folder
    of its own (seg_train/seg_train). If there are both test and val, test is used, unless it has no class folders.
    Raises DataError if names are those of parts but do not say which is which.
    """
    place = folder
    for _ in range(_WRAPPERS):
        inner = subfolders(place)
        if parts := _parts_among(place, inner):
            return parts
        if len(inner) != 1 or holds_images(inner[0]):
            break
        place = inner[0]
    _refuse_lone_parts(folder)
    return None


def role(name: str) -> tuple[str, str, str] | None:
    """("train", "test" or "val", what comes before the word, what comes after), None for any other name."""
    found = _NAME.fullmatch(name)
    return found and (ROLES[found[2].lower()], (found[1] or "").casefold(), found[3].casefold())


def _parts_among(place: Path, inner: list[Path]) -> Parts | None:
    groups = defaultdict(lambda: defaultdict(list))
    for path in inner:
        if named := role(path.name):
            groups[named[1:]][named[0]].append(path)
    complete = [group for group in groups.values() if "train" in group and len(group) > 1]
    if not complete:
        return None
    plain = groups.get(("", ""))
    group = plain if plain in complete else complete[0]
    if len(complete) > 1 and group is not plain:
        raise DataError(
            f"{readable(place)} has several sets of parts: {_names(path for path in inner if role(path.name))}. "
            "Pass a folder with one of them as data_dir."
        )
    held = [name for name in ("test", "val") if name in group]
    if len(held) == 2 and not any(map(subfolders, group["test"])) and any(map(subfolders, group["val"])):
        held.reverse()
    for name in ("train", held[0]):
        if len(group[name]) > 1:
            raise DataError(
                f"{readable(place)} has {_names(group[name])}, which all mean the {name} part. Keep one of them."
            )
    train, test = group["train"][0], group[held[0]][0]
    others = [path for path in inner if path not in (train, test)]
    inner_train = _unwrapped(train, set())
    inner_test = _unwrapped(test, {class_name(path.name) for path in subfolders(inner_train)})
    note = f"{readable(inner_train)} is taken for training, {readable(inner_test)} for test"
    return Parts(inner_train, inner_test, note + (f"; not used: {_names(others)}" if others else ""))


def _unwrapped(part: Path, classes: set[str]) -> Path:
    """The folder of classes in a part: itself, or the only folder in it, if that cannot be a class.

    classes: names that are known to be classes.
    """
    for _ in range(_WRAPPERS):
        inner = subfolders(part)
        if len(inner) != 1 or class_name(inner[0].name) in classes or not _wraps(inner[0]):
            break
        part = inner[0]
    return part


def _wraps(folder: Path) -> bool:
    return not holds_images(folder) and bool(subfolders(folder))


def _refuse_lone_parts(folder: Path) -> None:
    """Raises DataError if a class would have the name of a part: whoever named it so did not mean a class."""
    for path in subfolders(folder):
        named = role(path.name)
        if not named or (named[1:] != ("", "") and not _wraps(path)):
            continue  # with more in its name, a folder of images is a class, such as bullet_train
        if named[0] == "train":
            raise DataError(
                f"{readable(folder)} has {readable(path.name)}/ but neither test/ nor val/ beside it. Add one of "
                "them; or, if it is a class, give it another name."
            )
        raise DataError(
            f"{readable(folder)} has {readable(path.name)}/, which is the name of a part, but no train/ of the same "
            "kind beside it. Add that; or, if it is a class, give it another name."
        )


def _names(paths) -> str:
    return ", ".join(f"{readable(path.name)}/" for path in paths)
