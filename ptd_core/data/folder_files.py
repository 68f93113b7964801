"""The image files of class folders, and what lies beside them: counted, so that nothing is left out without a word."""

import os
import unicodedata
from collections import Counter
from pathlib import Path

from ptd_core.data.class_names import FILES
from ptd_core.errors import DataError
from ptd_core.paths import readable

# torchvision's endings, and others of formats that Pillow decodes by itself.
SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm",
            ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".tga", ".pcx", ".qoi"}  # fmt: skip
# What systems leave behind; never a class, an image, or worth a word. In lower case.
LEFTOVERS = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "lost+found"}


class Unused(Counter):
    """How many files were not used, by reason."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.items()))
        return f"{self.total():,} file(s) or link(s) not used: {reasons}" if self else ""


def class_name(folder: str) -> str:
    """The class that a folder's name means: one spelling of accents, whichever system wrote it."""
    return unicodedata.normalize("NFC", readable(folder))


def passed_over(name: str) -> bool:
    """Whether a file or folder is a hidden one or a leftover."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, links among them, by name, without hidden ones and leftovers."""
    return sorted(path for path in folder.iterdir() if not passed_over(path.name) and path.is_dir())


def is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def holds_images(folder: Path) -> bool:
    """Whether images lie in the folder itself, not only below it."""
    return any(is_image(path.name) and not passed_over(path.name) and not path.is_dir() for path in folder.iterdir())


def list_classes(folder: Path, fence: list[Path], unused: Unused) -> dict[str, list[Path]]:
    """{class: its image files, at any depth}, both sorted by name. Files that are not used are added to `unused`.

    fence: folders that links do not lead into, see `_list_images`. Folders whose names differ only in how accents are
    spelt are one class. Raises DataError if a class has no image.
    """
    classes: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not passed_over(path.name):
                own = Unused()
                files = _list_images(path, fence, own)
                if not files:
                    raise DataError(
                        f"{readable(path)} is an empty class: no image ending in {', '.join(sorted(SUFFIXES))}"
                        f"{f' ({own})' if own else ''}."
                    )
                unused.update(own)
                classes.setdefault(class_name(path.name), []).extend(files)
        elif path.name not in FILES:
            _count(path.name, unused, "image(s) beside the class folders")
    return {name: sorted(classes[name]) for name in sorted(classes)}


def _list_images(class_folder: Path, fence: list[Path], unused: Unused) -> list[Path]:
    """The image files below a class folder.

    Links to folders are entered, unless they lead into `fence` or to a folder above it: such a link lists images of
    this class or another once more, training and test images alike. No folder is entered twice.
    """
    files, seen, waiting = [], set(), [class_folder]
    while waiting:
        folder = waiting.pop()
        place = os.path.realpath(folder)
        if place in seen:
            unused["link(s) to folders that are read already"] += 1
            continue
        seen.add(place)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = folder / entry.name
            if entry.is_dir():
                if passed_over(entry.name):
                    continue
                if entry.is_symlink() and _leads_back(path, fence):
                    unused["link(s) to folders that are read already"] += 1
                else:
                    waiting.append(path)
            elif is_image(entry.name) and not passed_over(entry.name):
                files.append(path)
            else:
                _count(entry.name, unused, "image(s)")
    return files


def _leads_back(link: Path, fence: list[Path]) -> bool:
    target = Path(os.path.realpath(link))
    places = [Path(os.path.realpath(folder)) for folder in fence]
    return any(target.is_relative_to(place) or place.is_relative_to(target) for place in places)


def _count(name: str, unused: Unused, image: str) -> None:
    """Count a file that is not used, unless it is a leftover. image: the reason if it is an image."""
    if passed_over(name):
        if is_image(name) and not name.startswith("._"):
            unused["hidden image(s)"] += 1
    elif is_image(name):
        unused[image] += 1
    else:
        unused[readable(Path(name).suffix.lower()) or "without an ending"] += 1
