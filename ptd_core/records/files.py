"""Files that are written whole or not at all."""

import os
import re
from contextlib import suppress
from pathlib import Path

from ptd_core.errors import OutputError

_TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside `path`, flush it to the disk, and rename it to `path`.

    Raises OutputError if that fails; what stood there before is then still there, and nothing else is left.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); what stood there before is kept"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """A folder and those above it. Raises OutputError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: bytes that no name can have
        why = getattr(error, "strerror", None) or error
        raise OutputError(f"{folder}: cannot be made ({why})") from None


def sync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk, so that a rename outlives a power cut, where the file system can do that."""
    if os.name == "nt":  # folders cannot be opened there
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove what `write_atomically` had beside its files when its process was killed. Nobody else may be writing."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
