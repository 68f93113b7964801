"""Which device a run computes on, and how it says so."""

import platform
from pathlib import Path

import torch

from ptd_core.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """The torch device for "auto", "cpu", "mps", "cuda" or "cuda:N". Raises DeviceError if it is not there."""
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    device = torch.device(name)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise DeviceError(f"device = {name!r}: this machine has {gpus} CUDA devices; use 'auto' or 'cpu'")
    if device.type == "mps" and not mps:
        raise DeviceError("device = 'mps': this machine or this build of torch has no MPS; use 'auto' or 'cpu'")
    return device


def check_mps_linear(device: torch.device, batch_size: int, tokens: int) -> None:
    """Refuse what MPS computes wrongly: before torch 2.14, weight gradients of Linear from 32,767 rows on.

    See pytorch issues 177116 and 183535. Raises DeviceError.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if device.type == "mps" and version < (2, 14) and batch_size * tokens >= 32_767:
        raise DeviceError(
            f"batch_size = {batch_size} with {tokens} tokens: torch {torch.__version__} on MPS can give wrong weight "
            f"gradients from 32,767 rows on; use torch 2.14 or later, or batch_size at most {32_766 // tokens}"
        )


def describe_device(device: torch.device) -> str:
    """The name of the hardware, for stamps: never a host name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"Apple MPS ({platform.machine()})"
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next counts all of its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)  # its own module's synchronize waits for the current device: not cuda:1


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
