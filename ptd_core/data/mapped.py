"""Decoded images in one file that is mapped into memory: for data that does not fit into it.

The file holds the uint8 pixels of all images, (n, 3, S, S), training first, and nothing else. A small JSON file beside
it says which images these are. They are decoded once; whoever finds the pair whole maps it.

    folder-<key>.pixels, folder-<key>.json        key: of the source's files and of what was asked for of them

A key is made of names relative to the source's folder, sizes and times of change: so a folder that was moved is the
same data, and a file that was replaced is not, without reading terabytes to find out.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ptd_core.data.dataset import Dataset, pixel_statistics
from ptd_core.data.listing import Listing
from ptd_core.data.pages import Pages
from ptd_core.errors import DataError
from ptd_core.machine.terminal import say, somebody_watches
from ptd_core.paths import readable
from ptd_core.records.files import make_folder, sync_folder, write_atomically

VERSION = 1  # of how an image is decoded and of what is written
PATIENCE = 5.0  # seconds of waiting for another process without a word
FLUSH_BYTES = 64 * 2**20  # of pixels, after which they are on the disk whatever happens


def mapped(listing: Listing, cache: Path) -> Dataset:
    """The dataset with its images mapped from a file in `cache`, which is written first if it is not there.

    A file that is not whole, and one of images that have changed since, is written anew, and a line says so; what a
    killed process had decoded is kept. One process writes, others wait for it. A whole file is only read, so that
    `cache` may then be read-only.
    Raises DataError, as decoding does, and if the file cannot be written; nothing but its lock is left of it then.
    """
    store = _Store(listing, cache)
    about = store.whole()
    if about is None:
        try:
            make_folder(cache)
            with store.locked():
                about = store.whole() or store.write()
        except OSError as error:  # OutputError among them
            raise DataError(
                f"{readable(cache)} cannot be written ({error.strerror or error}); set cache_dir to a folder that can."
            ) from None
    statistics = tuple(about["mean"]), tuple(about["std"])
    note = f"mapped from {readable(store.pixels)}"
    images, pages = store.mapping()
    return listing.dataset(images, statistics, mapped=pages, expected=about["digest"], notes=(note,))


class _Store:
    """The two files of a listing's images. `about` is what the JSON file says."""

    def __init__(self, listing: Listing, cache: Path):
        self.listing, self.cache = listing, cache
        asked = {"version": VERSION, "image_size": listing.image_size, **listing.settings}
        key = hashlib.sha256(repr((sorted(asked.items()), len(listing.train))).encode())
        for text in listing.files():
            key.update(text.encode("utf-8", "surrogateescape") + b"\0")
        self.key, self.image_bytes = key.hexdigest(), 3 * listing.image_size**2
        stem = f"{listing.name}-{self.key[:16]}"
        self.pixels, self.json, self.lock = cache / f"{stem}.pixels", cache / f"{stem}.json", cache / f".{stem}.lock"
        # The same in the descriptions of whatever was decoded of the same folder before it changed.
        self.asked = {**asked, "place": readable(listing.place.resolve())}

    @property
    def bytes(self) -> int:
        return len(self.listing) * self.image_bytes

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file against every other process; the lock ends with its process."""
        lock = FileLock(self.lock, fallback_to_soft=False)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            say(f"decoding  another process writes {readable(self.pixels)}: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def whole(self) -> dict[str, Any] | None:
        """What the description says, if it is of these images and all of them are there."""
        about = _read(self.json)
        good = about and about["key"] == self.key and about["done"] and _size(self.pixels) == self.bytes
        return about if good else None

    def mapping(self) -> tuple[torch.Tensor, Pages]:
        """The images, uint8 (n, 3, S, S), read from the file when they are looked at; never to be written to."""
        side = self.listing.image_size
        # Not torch.from_file: it maps for writing, which the system refuses for files larger than its memory.
        try:
            pages = Pages(self.pixels)
            pixels = pages.bytes.reshape(len(self.listing), 3, side, side)
        except (OSError, ValueError) as error:
            raise DataError(f"{readable(self.pixels)} cannot be mapped into memory ({error}).") from None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(pixels), pages

    def write(self) -> dict[str, Any]:
        """Decode what is not decoded yet, and say what is there; the lock is held."""
        begun = self._begun()
        self._remove_outdated()
        free = shutil.disk_usage(self.cache).free
        if self.bytes - begun * self.image_bytes > free:
            self._remove()
            raise DataError(
                f"{len(self.listing):,} images of {self.listing.image_size} px need {self.bytes / 1e9:.1f} GB, but "
                f"{readable(self.cache)} has {free / 1e9:.1f} GB left. Make room, or set cache_dir to a larger disk."
            )
        begins = f"goes on after image {begun:,}" if begun else "begins"
        say(
            f"decoding  {begins}: {len(self.listing):,} images of {self.listing.image_size} px, "
            f"{self.bytes / 1e9:.1f} GB, once, into {readable(self.pixels)}"
        )
        try:
            if not begun:
                # Gone before it is described as begun: a process killed in between would leave old pixels that pass for
                # decoded ones. And whoever has mapped a damaged file keeps it.
                self._remove()
                sync_folder(self.cache)
            self._describe(done=False)
            self._decode(begun)
            images, pages = self.mapping()
            statistics = pixel_statistics(images[: len(self.listing.train)], pages)
            digest = self.listing.dataset(images, statistics, mapped=pages).digest
            self._describe(done=True, mean=statistics[0], std=statistics[1], digest=digest)
        except OSError as error:  # OutputError among them
            self._remove()
            why = error.strerror or error
            raise DataError(
                f"{readable(self.pixels)} cannot be written ({why}); nothing is left of it. It needs "
                f"{self.bytes / 1e9:.1f} GB: make room, or set cache_dir to a larger disk."
            ) from None
        except DataError:
            self._remove()
            raise
        return _read(self.json)

    def _decode(self, first: int) -> None:
        count, side = len(self.listing), self.listing.image_size
        flush_every = max(1, FLUSH_BYTES // self.image_bytes)
        with (
            open(self.pixels, "r+b" if first else "wb") as file,
            tqdm(
                total=count, initial=first, desc="decoding", unit="image", leave=False, disable=not somebody_watches()
            ) as bar,
        ):
            file.truncate(first * self.image_bytes)
            file.seek(first * self.image_bytes)
            for number, image in enumerate(self.listing.decoded(first), start=first + 1):
                assert image.shape == (3, side, side) and image.dtype == np.uint8
                file.write(np.ascontiguousarray(image))
                if number % flush_every == 0 or number == count:
                    file.flush()
                    os.fsync(file.fileno())
                bar.update()

    def _begun(self) -> int:
        """How many images a killed process had decoded; says so if what is there is of no use."""
        about, size = _read(self.json), _size(self.pixels)
        if about and about["key"] == self.key and not about["done"]:
            # What came after the last flush may be zeros after a power cut.
            flush = max(1, FLUSH_BYTES // self.image_bytes) * self.image_bytes
            return max(0, -(-min(size, self.bytes) // flush) - 1) * flush // self.image_bytes
        if size or self.json.exists():
            say(f"decoding  {readable(self.pixels)} is damaged: it is written anew")
        return 0

    def _remove_outdated(self) -> None:
        """Remove what was decoded of the same folder, asked for in the same way, before its files changed."""
        for path in sorted(self.cache.glob(f"{self.listing.name}-*.json")):
            about = _read(path)
            if path == self.json or not about or about["asked"] != self.asked:
                continue
            with suppress(Timeout), FileLock(path.with_name(f".{path.stem}.lock"), timeout=0, fallback_to_soft=False):
                say(f"decoding  files of {self.asked['place']} have changed: {readable(path.stem)} is written anew")
                for file in (path, path.with_suffix(".pixels")):
                    file.unlink(missing_ok=True)

    def _describe(self, **more: Any) -> None:
        about = {"key": self.key, "asked": self.asked, "images": len(self.listing), **more}
        write_atomically(self.json, json.dumps({**about, "check": _check(about)}, indent=1).encode())

    def _remove(self) -> None:
        for path in (self.pixels, self.json):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """A description, None if there is none, or if not every bit of it is as it was written."""
    try:
        about = json.loads(path.read_bytes())
        return about if about.pop("check") == _check(about) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _check(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
