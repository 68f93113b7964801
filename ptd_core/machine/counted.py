"""What torch counts while a model runs: floating-point operations, and bytes that wait for the backward pass."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Operations for one image: `forward` in evaluation or training, `training` forward and backward together."""

    forward: int
    training: int


@dataclass(frozen=True)
class Operations:
    """Operations of forward products, by how many of their two factors want a gradient. weights: of both, those of
    which one factor is a weight."""

    both: int = 0
    one: int = 0
    none: int = 0
    weights: int = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(*(getattr(self, name) + getattr(other, name) for name in ("both", "one", "none", "weights")))

    def forward_only(self) -> "Operations":
        return Operations(none=self.both + self.one + self.none)

    def frozen(self) -> "Operations":
        """Where weights want no gradient, and tokens do."""
        return Operations(both=self.both - self.weights, one=self.one + self.weights, none=self.none)


def count(model: nn.Module, images: torch.Tensor, keep: tuple[int, ...] | None = None) -> Cost:
    """Operations per image of any model, counted by torch while it runs: no closed form needed, but a forward and
    a backward pass.

    model: called with (images, keep), or with (images) alone where keep is None; gives logits, or logits and a loss.
    images: (B, C, S, S), on the meta device if the model is there, which costs no arithmetic. The counter's rule for a
    fused kernel's backward adds the recomputation of its forward, and on the CPU older versions of torch count 0 for
    it: give explicit attention. It is a real step without its update: gradients and statistics of batch norm change.
    """
    with FlopCounterMode(display=False) as counter:
        out = model(images) if keep is None else model(images, keep)
        loss = sum(part.sum() for part in out) if isinstance(out, tuple) else out.sum()
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        if loss.requires_grad:  # what is frozen goes forward only
            loss.backward()
    return Cost(forward // len(images), (forward + counter.get_total_flops()) // len(images))


def saved_bytes(network: nn.Module, images: torch.Tensor, keep: tuple[int, ...] | None = None) -> int:
    """Bytes per image that a forward pass keeps for its backward pass: most of a training step's memory.

    network, images, keep: as of `count`, on a device that computes, since kernels differ in what they keep. Weights are
    not counted, nor is what lives for a moment only.
    """
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # views share one; held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(images) if keep is None else network(images, keep)
    others = {value.untyped_storage()._cdata for value in (*network.parameters(), *network.buffers(), images)}
    return sum(storage.nbytes() for place, storage in kept.items() if place not in others) // len(images)
