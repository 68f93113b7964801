"""Peak memory of a training step, each in a process of its own."""

from collections.abc import Callable
from pathlib import Path

import torch

from ptd_core.bench.apart import one_process
from ptd_core.machine.device import resolve_device, synchronize

STEPS = 2  # the second one has the optimizer's state


def peak_of(make_step: Callable[[], Callable[[], object]], device: str) -> int | None:
    """Bytes at the peak of training steps, above what is held before the first one; None where nothing can tell.

    make_step: importable and picklable; it builds the model and returns the step. On CUDA memory in tensors is
    counted, on the CPU resident memory.
    """
    with one_process() as pool:
        return pool.submit(_measure, make_step, device).result()


def _measure(make_step: Callable[[], Callable[[], object]], device: str) -> int | None:
    where = resolve_device(device)
    step = make_step()
    before = _held(where)
    for _ in range(STEPS):
        step()
    synchronize(where)
    after = _peak(where)
    return None if before is None or after is None else after - before


def _held(device: torch.device) -> int | None:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if device.type == "cpu" else None


def _status(field: str) -> int | None:
    """A size from Linux' account of this process, in bytes."""
    account = Path("/proc/self/status")
    if not account.exists():
        return None
    for line in account.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None
