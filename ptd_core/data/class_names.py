"""Names for classes whose folders are called otherwise, from a file in the folder of the data.

LOC_synset_mapping.txt, as ImageNet has it, or class_names.txt, written alike, one class a line: the name of its folder,
a space or a tab, and the name to be shown. Of several names with commas between, the first is shown.

    n01440764 tench, Tinca tinca
"""

import unicodedata
from collections import Counter
from pathlib import Path

from ptd_core.errors import DataError
from ptd_core.paths import readable

FILES = ("class_names.txt", "LOC_synset_mapping.txt")


def names_of(classes: tuple[str, ...], places: list[Path]) -> tuple[tuple[str, ...], str]:
    """(the names to show for these classes, a note on where they come from); as they are, "" if there is no file.

    places: folders where the file may lie; the first one found is read. It may name more classes than there are. Those
    with a name in common are shown with their folders.
    Raises DataError, naming file and line, if it cannot be read, if a line has no name, or if a class is not in it.
    """
    paths = [folder / name for folder in places for name in FILES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return classes, ""
    found, known = {}, set(classes)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{readable(path)} cannot be read ({error}); it should be text in UTF-8.") from None
    for number, line in enumerate(lines, start=1):
        folder, name = _parted(unicodedata.normalize("NFC", line), known)
        name = name.partition(",")[0].strip()
        if line.strip() and not name:
            raise DataError(
                f"{readable(path)}, line {number}: {line[:80]!r} should be a class folder, a space and its name."
            )
        found[folder.strip()] = name
    if absent := [name for name in classes if name not in found]:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise DataError(
            f"{readable(path)} has no name for {absent[0]}{more}. Add a line for each, the folder, a tab and the name, "
            "or remove the file."
        )
    often = Counter(found[name] for name in classes)
    names = tuple(found[name] if often[found[name]] == 1 else f"{found[name]} ({name})" for name in classes)
    return names, f"names of classes from {readable(path)}"


def _parted(line: str, known: set[str]) -> tuple[str, str]:
    """Folder and name in a line: at its tab, else after the longest folder that there is, else at its first space."""
    if "\t" in line:
        folder, _, name = line.partition("\t")
        return folder, name
    spaces = [place for place, letter in enumerate(line) if letter == " "]
    place = next((place for place in reversed(spaces) if line[:place].strip() in known), None)
    folder, name = (line[:place], line[place:]) if place is not None else line.partition(" ")[::2]
    return folder, name
