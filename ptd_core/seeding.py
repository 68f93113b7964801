"""Randomness as a function of (seed, epoch, purpose), so that any epoch can be made again on its own.

Nothing here keeps state: a run that is resumed at epoch 57 draws what the uninterrupted run drew.
"""

import zlib

import numpy as np


def _sequence(seed: int, epoch: int, purpose: str) -> np.random.SeedSequence:
    # crc32, not hash(): Python's string hash changes from process to process.
    return np.random.SeedSequence((seed, epoch, zlib.crc32(purpose.encode())))


def generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """A NumPy generator for one purpose in one epoch, independent of every other (seed, epoch, purpose).

    Raises ValueError if seed or epoch is negative.
    """
    return np.random.default_rng(_sequence(seed, epoch, purpose))


def torch_seed(seed: int, epoch: int, purpose: str) -> int:
    """A 63-bit seed for a torch.Generator, or for torch.manual_seed, with the same independence."""
    return int(_sequence(seed, epoch, purpose).generate_state(1, np.uint64)[0] >> np.uint64(1))
