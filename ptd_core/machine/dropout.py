"""Dropout that does not hold up a CPU.

There PyTorch draws a number for every value, and a training step with dropout spends much of its time on that; here
one draw of 64 bits serves four values.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHOICES = 2**16  # 16 bits a value: the rate is rounded to a multiple of 1 / CHOICES


class Dropout(nn.Dropout):
    """torch.nn.Dropout, its randomness drawn, on a CPU, 16 bits a value; elsewhere, and compiled, it is that itself."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        return x * keep_weights(x, self.p)


def keep_weights(x: Tensor, rate: float) -> Tensor:
    """For each value of x 0 with probability `rate`, to the nearest of 0 to 65,535 / 65,536, else 1 / (1 - that).

    Of x's shape and type, drawn from PyTorch's generator of the CPU. The mean is 1 up to the rounding of the weight to
    that type: in bfloat16 at most 1/512 off, 0.99844 at a rate of 0.1, as with PyTorch's own dropout. A second weight
    that evens this out would take half as long again.
    """
    dropped = min(round(rate * CHOICES), CHOICES - 1)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
    return (bits >= dropped - CHOICES // 2).to(x.dtype).mul_(CHOICES / (CHOICES - dropped))
