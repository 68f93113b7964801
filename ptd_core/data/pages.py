"""A file that is mapped into memory to be read, in a process that does not grow by what it has read.

A page of a map that was looked at counts as the process's memory until the system needs it for something else. Here it
is let go at once: the system may still hold it, so that reading it again costs little, but nobody has to.
"""

import mmap
from pathlib import Path

import numpy as np
import torch

WINDOW = 2 * 2**20  # bytes: the system maps neighbours of what is looked at, at most what lies in one such window


class Pages:
    """The bytes of a file, read-only. Raises OSError or ValueError if it cannot be mapped."""

    def __init__(self, file: Path):
        with open(file, "rb") as opened:
            self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes = np.frombuffer(self._map, np.uint8)

    def let_go(self, read: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """What was read of the map: a tensor whose memory it is, or these rows of it, int64, on the host."""
        if not hasattr(mmap, "MADV_DONTNEED") or not read.nbytes:
            return
        size = read.nbytes if rows is None else read.nbytes // len(read)
        first = read.data_ptr() - self.bytes.ctypes.data + size * (np.zeros(1, int) if rows is None else rows.numpy())
        for begin, end in set(zip((first // WINDOW).tolist(), ((first + size - 1) // WINDOW + 1).tolist())):
            # Whoever reads there meanwhile reads the same again: nobody writes.
            self._map.madvise(mmap.MADV_DONTNEED, begin * WINDOW, (end - begin) * WINDOW)
