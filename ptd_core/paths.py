"""Where the project lies, which folder a relative path means, and how the names of files are shown."""

from pathlib import Path

from ptd_core.errors import DataError

CODE_ROOT = Path(__file__).resolve().parent.parent  # the folder that holds ptd_core/


def project_root(code_root: Path) -> Path:
    """The folder for runs/, data/ and figures/: the checkout, or where the code is installed the current folder."""
    checkout = (code_root / "pyproject.toml").is_file() and (code_root / "parameters").is_dir()
    return code_root if checkout else Path.cwd()


PROJECT_ROOT = project_root(CODE_ROOT)


def readable(name: str | Path) -> str:
    """A file's name as text that can be drawn and printed: bytes that are not UTF-8 as \\udcXX, all else as it is."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def resolve_cache_dir(cache_dir: str | Path) -> Path:
    """The folder for decoded images: as given from the current folder, else the project's own cache/.

    Not beside the data, which may be read-only, and not in a run's folder: many runs share what is decoded once.
    """
    return Path(cache_dir).expanduser() if cache_dir else PROJECT_ROOT / "cache"


def resolve_data_dir(data_dir: str | Path) -> Path:
    """The folder that `data_dir` means: as given from the current folder, else from the project's root.

    A notebook in `book/` and a command in the project's root run in different folders; `data` should mean the
    same to both. A relative path that exists in neither place is taken from the project's root, so that a
    download lands where the next run looks for it. `~` is expanded. The folder need not exist.
    Raises DataError if no folder can have that name.
    """
    try:
        path = Path(data_dir).expanduser()
        path = path if path.is_absolute() or path.exists() else PROJECT_ROOT / path
        path.exists()
        return path
    except (OSError, ValueError, RuntimeError) as error:  # too long; a null byte; ~somebody without a home
        raise DataError(f"data_dir = {str(data_dir)!r} is not a folder's name ({error}).") from None
