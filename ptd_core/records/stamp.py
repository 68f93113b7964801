"""Where a result comes from: recipe, device, library versions, commit. Never a host name or a path."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from ptd_core.machine.device import describe_device
from ptd_core.paths import CODE_ROOT

_BETWEEN = "; "
_LIBRARIES = ("torchvision", "timm", "numpy", "pyarrow", "pydantic")


def commit() -> str | None:
    """The commit of the code, with "+changes" if the code in the work tree differs from it; None outside a checkout.

    A copy of the code in somebody else's repository has no commit of its own.
    """
    try:
        if not os.path.samefile(_git("rev-parse", "--show-toplevel"), CODE_ROOT) or not _git("ls-files", "ptd_core"):
            return None
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "ptd_core", "book")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+changes" if changed else head


def stamp(device: torch.device) -> dict:
    """Device, versions and commit, as they stand in run.json and under figures."""
    return {
        "device": describe_device(device),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # with its CUDA version, which the package metadata leaves out
            **{name: _version(name) for name in _LIBRARIES},
        },
        "commit": commit(),
    }


def joined(earlier: dict, here: dict) -> dict:
    """Where a result comes from that was computed in parts: of each entry all values, different ones as "A; B".

    See `places`: seconds of several devices are compared with nobody's.
    """
    return {name: _both(earlier.get(name), value) for name, value in here.items()}


def places(text: str) -> list[str]:
    """The values that such a text stands for."""
    return text.split(_BETWEEN)


def _both(earlier: object, here: object) -> object:
    if isinstance(here, dict):
        return joined(earlier or {}, here)
    if earlier is None or earlier == here:
        return here
    return earlier if str(here) in places(str(earlier)) else f"{earlier}{_BETWEEN}{here}"


def _git(*arguments: str) -> str:
    here = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    command = ["git", *arguments]
    result = subprocess.run(command, cwd=CODE_ROOT, env=here, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
