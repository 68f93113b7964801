"""Randomness as a function of (seed, epoch, purpose), so that any epoch can be made again on its own.

Nothing here keeps state: a run that is resumed at epoch 57 draws what the uninterrupted run drew. Within an epoch,
the state of PyTorch's own generators is read and set.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws on the CPU follow from `seed` inside, and go on as if nothing had happened afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_state(device: torch.device) -> dict[str, Tensor]:
    """{"cpu": ..., and "cuda" or "mps" where the device is one}: byte tensors on the CPU."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(device: torch.device, state: dict[str, Tensor]) -> None:
    """Go on drawing where `state` was taken. What a state from another kind of device lacks stays as it is."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
