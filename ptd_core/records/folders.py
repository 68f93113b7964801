"""Where a run writes, and that only one process at a time does."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ptd_core.errors import OutputError
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.records.files import remove_leftovers, write_atomically

# Seconds to wait for another process to end: a kernel notices only after a second that its papermill was killed.
LOCK_WAIT = 5.0


@dataclass(frozen=True)
class Folders:
    """Where a run writes: `figures` for readers, `state` for checkpoints (git-ignored)."""

    figures: Path
    state: Path

    @classmethod
    def of(cls, recipe: Recipe) -> "Folders":
        """Raises OutputError if out_dir cannot be a folder's name."""
        try:
            base = Path(recipe.out_dir).expanduser() if recipe.out_dir else PROJECT_ROOT
        except RuntimeError as error:  # ~somebody without a home
            raise OutputError(f"out_dir = {recipe.out_dir!r}: is not a folder's name ({error})") from None
        return cls(figures=base / "figures" / recipe.run_name, state=base / "runs" / recipe.run_name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's folders against every other process, and leave no folder behind that stayed empty.

        The operating system's lock ends with its process, however that ends. On NFS it holds between machines if
        the server offers locks, as NFS 4 does. Raises OutputError if another process holds it or it cannot be made.
        """
        path = self.state / ".lock"
        lock = FileLock(path, fallback_to_soft=False)  # a soft lock would outlive a killed process
        try:
            absent = [folder for folder in (self.state, *self.state.parents) if not folder.exists()]
            _make(self.state)
            lock.acquire(timeout=LOCK_WAIT)
        except Timeout:
            raise OutputError(
                f"{self.state}: another process is working in this run; wait until it has ended, or choose another "
                "name with run=NAME"
            ) from None
        except (OSError, ValueError) as error:  # ValueError: bytes that no name can have
            raise _cannot_write(self.state, error) from None
        try:
            remove_leftovers(self.state)
            yield
        finally:
            with suppress(OSError):
                if [other.name for other in self.state.iterdir()] == [path.name]:
                    path.unlink()
                    for folder in absent:
                        folder.rmdir()
            lock.release()

    def create(self) -> None:
        """Make both and try to write into them. Raises OutputError if that fails."""
        for folder in (self.figures, self.state):
            try:
                _make(folder)
                write_atomically(folder / ".writable", b"")
                (folder / ".writable").unlink()
                remove_leftovers(folder)
            except OSError as error:
                raise _cannot_write(folder, error) from None


def _make(folder: Path) -> None:
    if folder.is_symlink():  # a run's name must not lead out of the folder that holds the runs
        raise OutputError(f"{folder}: is a link to {folder.readlink()}; a run needs a folder of its own there")
    folder.mkdir(parents=True, exist_ok=True)


def _cannot_write(folder: Path, error: OSError | ValueError) -> OutputError:
    if isinstance(error, OutputError):
        return error
    why = getattr(error, "strerror", None) or error
    return OutputError(f"{folder}: cannot be written ({why}); set out_dir to a folder that can")
