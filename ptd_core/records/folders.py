"""The folder that a run writes to, and that only one process at a time does."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ptd_core.errors import OutputError, RecipeError
from ptd_core.paths import PROJECT_ROOT
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.records.files import remove_leftovers, write_atomically
from ptd_core.records.run_record import RunRecord

# Seconds to wait for another process to end: a kernel notices only after a second that its papermill was killed.
LOCK_WAIT = 5.0
LONGEST = 100  # characters of a name
# What a run or a sweep can be called: a name, never a path.
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{LONGEST - 1}}}")


@dataclass(frozen=True)
class RunFolder:
    """Everything that one run writes: records, figures, explorers, checkpoints. A sweep's tables have one as well.

    out_dir: the folder that holds runs/; empty: the project's own, or the current folder where the code is
    installed.
    """

    run_name: str
    out_dir: str = ""

    @property
    def path(self) -> Path:
        """Raises OutputError if out_dir cannot be a folder's name."""
        try:
            base = Path(self.out_dir).expanduser() if self.out_dir else PROJECT_ROOT
        except RuntimeError as error:  # ~somebody without a home
            raise OutputError(f"out_dir = {self.out_dir!r}: is not a folder's name ({error})") from None
        return base / "runs" / self.run_name

    @property
    def finished(self) -> RunRecord | None:
        """The record of a run that is done and whose checkpoint is here, else None.

        Records without a checkpoint are somebody else's, or what is left of a run: nothing can be shown of it but
        these. Raises OutputError if run.json is damaged.
        """
        record = RunRecord.read(self.path)
        return record if record and record.finished and Checkpoints(self.path).present else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against every other process, and remove it afterwards if it stayed empty.

        The operating system's lock ends with its process, however that ends. On NFS it holds between machines if
        the server offers locks, as NFS 4 does. Raises OutputError if another process holds it or it cannot be made.
        """
        folder = self.path
        path = folder / ".lock"
        lock = FileLock(path, fallback_to_soft=False)  # a soft lock would outlive a killed process
        try:
            absent = [parent for parent in (folder, *folder.parents) if not parent.exists()]
            _make(folder)
            lock.acquire(timeout=LOCK_WAIT)
        except Timeout:
            raise OutputError(
                f"{folder}: another process is working in this run; wait until it has ended, or choose another "
                "name with run=NAME"
            ) from None
        except (OSError, ValueError) as error:  # ValueError: bytes that no name can have
            raise _cannot_write(folder, error) from None
        try:
            remove_leftovers(folder)
            yield
        finally:
            with suppress(OSError):
                if [other.name for other in folder.iterdir()] == [path.name]:
                    path.unlink()
                    for parent in absent:
                        parent.rmdir()
            lock.release()

    def create(self) -> None:
        """Make the folder and try to write into it. Raises OutputError if that fails."""
        folder = self.path
        try:
            _make(folder)
            write_atomically(folder / ".writable", b"")
            (folder / ".writable").unlink()
            remove_leftovers(folder)
        except OSError as error:
            raise _cannot_write(folder, error) from None


def refuse_half_trained(weights: Path) -> None:
    """Raises RecipeError if a file holds the weights of a run that is under way or was stopped: they are saved on the
    way, and what begins with them would not be what it says."""
    files = Checkpoints(weights.parent)
    if weights.name == files.weights.name and files.present:
        record = RunRecord.read(weights.parent)
        if record is None or not record.finished:
            raise RecipeError(
                f"weights = {str(weights)!r}: are of a run that is not finished; train it to its end first, or begin "
                "with a copy of the file elsewhere"
            )


def _make(folder: Path) -> None:
    if folder.is_symlink():  # a run's name must not lead out of the folder that holds the runs
        raise OutputError(f"{folder}: is a link to {folder.readlink()}; a run needs a folder of its own there")
    folder.mkdir(parents=True, exist_ok=True)


def _cannot_write(folder: Path, error: OSError | ValueError) -> OutputError:
    if isinstance(error, OutputError):
        return error
    why = getattr(error, "strerror", None) or error
    return OutputError(f"{folder}: cannot be written ({why}); set out_dir to a folder that can")
