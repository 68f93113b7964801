"""Checkpoints: written whole or not at all, read without unpickling, damage noticed and survived.

A checkpoint is what `torch.save` writes, a zip archive, and in the archive's comment the SHA-256 of all before it:
`torch.load` does not verify the archive's own checksums, and a flipped bit would pass for a weight.
"""

import dataclasses
import hashlib
import io
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ptd_core.errors import OutputError
from ptd_core.records.files import sync_folder, write_atomically
from ptd_core.records.history import EpochRecord

FORMAT = 2
SHARE = 0.01  # of the time, at most, goes into checkpoints within epochs
_DIGEST_BYTES = 64


@dataclass(frozen=True)
class Checkpoint:
    """A trainer's state (see `Trainer.state_dict`), the records of its finished epochs, and what they belong to.

    recipe: its settings, as `Recipe.settings()` gives them. data: `Dataset.digest` of its data. stamp: device,
    versions, commit and fast path that the state comes from, of all calls that had a part in it.
    """

    trainer: dict
    records: list[EpochRecord]
    recipe: dict
    data: str
    stamp: dict


def pack(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as the bytes of a file."""
    buffer = io.BytesIO()
    content = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    content["records"] = [dataclasses.asdict(record) for record in checkpoint.records]
    torch.save({"format": FORMAT, **content}, buffer)
    # The last two bytes of a zip archive without a comment are the comment's length, 0.
    body = buffer.getvalue()[:-2] + struct.pack("<H", _DIGEST_BYTES)
    return body + _digest(body)


def unpack(content: bytes, path: Path) -> Checkpoint:
    """The checkpoint in the bytes of the file `path`; tensors on the CPU. No code in them can run.

    Raises OutputError, naming the file, if anything in them is not as it was written.
    """
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if _digest(body) != digest:
        raise OutputError(f"{path}: is damaged or not a checkpoint ({len(content)} bytes, wrong checksum)")
    try:
        read = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if (written := read.pop("format")) != FORMAT:
            raise OutputError(
                f"{path}: was written by another version of this program (format {written}; this one reads {FORMAT})"
            )
        records = [EpochRecord(**record) for record in read.pop("records")]
        return Checkpoint(records=records, **read)
    except OutputError:
        raise
    except Exception as error:  # whatever a file by another hand makes the loader raise
        raise OutputError(f"{path}: is not a checkpoint of this program ({type(error).__name__})") from None


class Checkpoints:
    """The checkpoints in a run's folder.

    last: the newest. previous: the one before it. best: that of the epoch with the highest test accuracy, which no
    headline comes from. weights: the headline weights after the last epoch that `checkpoint_every` saved, as
    safetensors.
    new: a checkpoint whose process was killed before it was renamed to `last`. damaged: one that was set aside.
    """

    def __init__(self, folder: Path):
        self.last, self.previous, self.best, self.new, self.damaged = (
            folder / f"{name}.pt" for name in ("last", "previous", "best", "new", "damaged")
        )
        self.folder, self.weights = folder, folder / "weights.safetensors"

    def weights_after(self, epochs: int) -> Path:
        """The file of the headline weights after so many epochs, of which some are kept to look back at."""
        return self.folder / f"weights_after_epoch_{epochs}.safetensors"

    def save(self, checkpoint: Checkpoint) -> None:
        """Make `checkpoint` the last one. Until it has been read back, the last one before it stays what it was.

        Raises OutputError if it cannot be written or read back.
        """
        write_atomically(self.new, pack(checkpoint))
        try:
            unpack(self.new.read_bytes(), self.new)
        except OSError as error:  # OutputError among them
            self.new.unlink()
            raise OutputError(f"{error}, just after it was written; {self.last.name} is kept") from None
        self._promote()

    def save_best(self, checkpoint: Checkpoint) -> None:
        write_atomically(self.best, pack(checkpoint))

    def save_weights(self, file: Path, weights: dict[str, Tensor], description: str) -> None:
        """A model's state dict, and a sentence on it as metadata, for any program that reads safetensors."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        write_atomically(file, safetensors.torch.save(tensors, metadata={"description": description}))

    @property
    def present(self) -> bool:
        """Whether there is a checkpoint to go on from, whole or not."""
        return any(path.exists() for path in (self.new, self.last, self.previous))

    def load(self, tell: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole, tensors on the CPU; None if there never was one.

        `tell` is called with a sentence on a damaged one that an older one stands in for; it is set aside.
        Raises OutputError, naming the files, if there are checkpoints and none is whole.
        """
        refusals = []
        for path in (self.new, self.last, self.previous):
            try:
                checkpoint = unpack(path.read_bytes(), path)
            except FileNotFoundError:
                continue
            except OSError as error:  # OutputError among them
                refusals.append((path, str(error)))
                continue
            for damaged, refusal in refusals:
                os.replace(damaged, self.damaged)
                tell(f"{refusal}; {path.name} is used instead, and the damaged file kept as {self.damaged.name}")
            if path == self.new:
                self._promote()
            return checkpoint
        if refusals:
            raise OutputError(
                "; ".join(refusal for _, refusal in refusals)
                + f"; delete {' and '.join(str(path) for path, _ in refusals)} to train anew"
            )
        return None

    def _promote(self) -> None:
        if self.last.exists():
            os.replace(self.last, self.previous)
        os.replace(self.new, self.last)
        sync_folder(self.last.parent)


class Interval:
    """Time between checkpoints: `seconds`, or longer, so that saving takes no more than SHARE of the time.

    seconds: 0 for never.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.seconds, self.clock = seconds, clock
        self.wait, self.since = seconds, clock()

    @property
    def over(self) -> bool:
        return self.seconds > 0 and self.clock() - self.since >= self.wait

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around a save: begins the next interval, and makes it longer if saving is slow."""
        start = self.clock()
        yield
        self.since = self.clock()
        self.wait = max(self.seconds, (self.since - start) / SHARE)


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
