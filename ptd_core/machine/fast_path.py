"""How a device computes fastest: precision, attention kernel, memory format and compilation.

The choices behind "auto" follow what `python -m ptd_core.bench` measured (figures/bench); every one can be
overridden by the parameter of its name.
"""

import ctypes
import sys
from dataclasses import dataclass

import torch
from torch import nn

RECOMPILE_LIMIT = 64  # of a model three at most; a bench or a notebook trains many
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class FastPath:
    """The choices for one device. compilation: "off", "inductor" or "cudagraphs"."""

    precision: str
    attention: str
    channels_last: bool
    compilation: str

    @classmethod
    def choose(
        cls, device: torch.device, precision: str = "auto", attention: str = "auto", compilation: str = "auto"
    ) -> "FastPath":
        """What is asked for, and measured choices for the device where that is "auto".

        Cards that do not multiply bf16 train in fp32, uncompiled: nothing was measured on them, and fp16 would need
        its losses scaled.
        """
        if precision == "auto":
            precision = "bf16" if multiplies_bf16(device) else "fp32"
        if attention == "auto":
            attention = "explicit" if (device.type, precision) == ("cpu", "bf16") else "fused"
        if compilation == "auto":
            # On a CPU a step gains too little to be worth compiling (figures/bench, section paths).
            compilation = "cudagraphs" if device.type == "cuda" and multiplies_bf16(device) else "off"
        return cls(precision, attention, device.type != "mps", compilation)

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model on its device in the memory format of its convolutions.

        On CUDA convolutions are from then on deterministic in the whole process, so that a run which was stopped ends
        as it would have; and fp32 means fp32: cuDNN would round what they multiply to TF32's 10 bits.
        """
        if device.type == "cuda":
            torch.backends.cudnn.deterministic = True
            if self.precision == "fp32":
                torch.backends.cudnn.allow_tf32 = False
        return model.to(device, memory_format=torch.channels_last if self.channels_last else torch.preserve_format)

    def compile(self, model: nn.Module) -> nn.Module:
        """The model as training calls it; it shares weights with `model` and compiles at its first calls.

        The number of kept tokens is an argument of `forward`, so that after its second value one graph serves all.
        """
        if self.compilation == "off":
            return model
        # All models of a process count towards one limit, beyond which torch would go on uncompiled, silently.
        torch._dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        if self.compilation == "cudagraphs":
            # One recording for each number of tokens is meant here: it changes between epochs only.
            torch._inductor.config.triton.cudagraph_dynamic_shape_warn_limit = None
        return torch.compile(model, mode="reduce-overhead" if self.compilation == "cudagraphs" else None)

    def __str__(self) -> str:
        compiled = {"off": "", "inductor": ", compiled", "cudagraphs": ", compiled, CUDA graphs"}[self.compilation]
        return f"{self.precision}, {self.attention} attention{compiled}"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16 products; others emulate them, far slower, or lack them.

    CPUs with AVX512-BF16 or AMX, and CUDA cards of compute capability 8 and above (NVIDIA's Ampere, of 2020).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees, and reuse it; whether the C library can do so.

    By default glibc hands large blocks back to the system and fetches them anew, zeroed page by page, several times
    in each training step on the CPU.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
