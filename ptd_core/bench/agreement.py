"""The section `agreement`: whether this device computes what the CPU does, before anything is timed on it.

One forward and backward pass in fp32, on the device and on the CPU, with all tokens and with each fate of dropped ones,
both against the same pass in float64. Rounding is all that may differ: the device's error must be of the size of the
CPU's. Which tokens are kept is given, the same for all, so that no tie is broken in two ways.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ptd_core.bench.workload import CLASSES, Workload
from ptd_core.errors import DeviceError
from ptd_core.recipe import Recipe
from ptd_core.token_drop import Keep, TokenDrop, TokenDropViT
from ptd_core.trainer import build_model

CASES = ("all tokens", "discard", "fuse", "skip")  # not merge: to the nearest, which two may be almost alike
TIMES = 10.0  # the device's error over the CPU's, at most
FLOOR = 1e-6  # relative; an error below it is none
IMAGES = 16


def agreement(work: Workload, rounds: int) -> list[dict]:
    """Relative errors of the loss and of all gradients, on the device and on the CPU.

    rounds: one is enough. Raises DeviceError for a device whose error is not that of rounding.
    """
    recipe = work.recipe.replace(dropout=0.0, drop_path=0.0, checkpoint_activations=False)
    rows = []
    for case in CASES:
        exact = _pass(recipe, case, torch.device("cpu"), torch.float64)
        on_cpu, here = (
            {name: _error(value, exact[name]) for name, value in _pass(recipe, case, device, torch.float32).items()}
            for device in (torch.device("cpu"), work.device)
        )
        for name in exact:
            rows.append({"case": f"{case}, {name}", "device_error": here[name], "cpu_error": on_cpu[name]})
            if not here[name] <= max(FLOOR, TIMES * on_cpu[name]):
                raise DeviceError(
                    f"{work.device}: computes otherwise than the CPU: {case}, {name}: relative error "
                    f"{here[name]:.2g} in fp32, where the CPU has {on_cpu[name]:.2g}"
                )
    return rows


def _pass(recipe: Recipe, case: str, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Loss and gradients of one pass in training, on float64 inputs that are the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    vit, tokens = recipe.vit, recipe.vit.patch_tokens
    images = torch.randn(IMAGES, 3, recipe.image_size, recipe.image_size, dtype=torch.float64, generator=generator)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator).to(device)
    given = torch.rand(IMAGES, tokens, dtype=torch.float64, generator=generator)
    images, given = images.to(device, dtype), given.to(device, dtype)
    model = build_model(recipe, CLASSES).to(device, dtype).train()
    keep: Keep | None = None
    if case == "all tokens":
        forward = model
    else:
        keep = (max(1, tokens * 2 // 3),)
        network = TokenDropViT(model, TokenDrop((min(1, vit.depth - 1),), score="oracle", fate=case))
        forward = partial(network, keep=keep, given_BG=given)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # which has 10 bits where fp32 has 23
        loss = F.cross_entropy(forward(images), labels)
        loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return {"loss": loss.detach().cpu().double(), "gradients": gradients.cpu().double()}


def _error(value: Tensor, exact: Tensor) -> float:
    """|value - exact| / |exact|, in float64."""
    return ((value - exact).norm() / exact.norm()).item()
