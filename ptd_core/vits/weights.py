"""A file of weights to begin training with: its digest, and a ViT that gets them."""

import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from ptd_core.errors import RecipeError
from ptd_core.model import ViTConfig
from ptd_core.paths import PROJECT_ROOT
from ptd_core.vits.timm_config import TimmConfig

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")  # stands for a file in what a run records
_HEADS = ("head", "head_dist")
_SHOWN = 3  # names of a difference

Adapt = Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]


def digest_of(weights: str) -> str:
    """ "sha256:..." of a file of weights; of such a digest that itself. Raises ValueError if there is no such file."""
    if DIGEST.fullmatch(weights):
        return weights
    path = find(weights)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"must end in {', '.join(SUFFIXES)}")
    try:
        about = path.stat()
        return _digest(path, about.st_mtime_ns, about.st_size)
    except OSError as error:
        raise ValueError(f"must be a file that can be read ({error.strerror or error})") from None


def find(weights: str) -> Path:
    """The file: as given from the current folder, else from the project's root."""
    path = Path(weights)
    return path if path.is_absolute() or path.exists() else PROJECT_ROOT / path


def begin_with(vit: nn.Module, weights: str, adapt: Adapt) -> nn.Module:
    """The ViT with the weights of a file in place of its own; "" leaves it as it is.

    The file holds a state dict, maybe under "model", "state_dict" or, preferred, "model_ema", and is read without
    unpickling code. adapt: makes it fit the ViT's image size. A head for another number of classes, or none, leaves the
    ViT's own. Raises RecipeError for a file that cannot be read and for weights of another architecture, with what
    differs.
    """
    if weights:
        vit.load_state_dict(_fitting(vit, weights, adapt))
    return vit


def refuse_other_architecture(config: ViTConfig | TimmConfig, weights: str) -> None:
    """Raises RecipeError as `begin_with` does, for any number of classes, without building a model."""
    if weights:
        with torch.device("meta"):
            vit = config.build(num_classes=1)
        _fitting(vit, weights, config.adapted)


def _fitting(vit: nn.Module, weights: str, adapt: Adapt) -> dict[str, Tensor]:
    """The file's weights as the ViT takes them. Raises RecipeError."""
    if DIGEST.fullmatch(weights):
        raise RecipeError(f"weights = {weights!r}: is the digest of a file; training begins with the file itself")
    path = find(weights)
    state = _read(path)
    mine = vit.state_dict()
    for head in _HEADS:
        own, theirs = mine.get(f"{head}.weight"), state.get(f"{head}.weight")
        if own is not None and (theirs is None or (len(own) != len(theirs) and own.shape[1:] == theirs.shape[1:])):
            for part in ("weight", "bias"):
                state.pop(f"{head}.{part}", None)
                if f"{head}.{part}" in mine:
                    state[f"{head}.{part}"] = mine[f"{head}.{part}"]
    try:
        state = adapt(state, vit)
    except Exception:  # it expects the shapes of its own architecture: the differences say more
        pass
    if differences := _differences(mine, state):
        raise RecipeError(
            f"weights = {str(path)!r}: are of another architecture than this {type(vit).__name__}: {differences}"
        )
    return state


@functools.lru_cache(maxsize=64)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes its reader raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecipeError(f"weights = {str(path)!r}: cannot be read as weights ({reason[:300]})") from None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise RecipeError(
            f"weights = {str(path)!r}: holds no state dict, by itself or under model, state_dict or model_ema"
        )
    return state


def _differences(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    """What two state dicts do not share, in words; empty if they share names and shapes."""
    shapes = [
        f"{name} {tuple(theirs[name].shape)} in place of {tuple(value.shape)}"
        for name, value in mine.items()
        if name in theirs and theirs[name].shape != value.shape
    ]
    found = (
        ("the file lacks ", [name for name in mine if name not in theirs]),
        ("it has also ", [name for name in theirs if name not in mine]),
        ("shapes: ", shapes),
    )
    return "; ".join(what + _some(names) for what, names in found if names)


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
