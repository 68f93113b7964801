"""The processes of a run on several devices: who writes, who computes which images, and sums over all of them.

A rank is one process with one device, started by torchrun. Every rank makes its own shard of each batch, augmented
and mixed as in the whole batch that a single process would make, and trains on it: the run is that of one process, up
to rounding, to random draws (dropout, drop-path, scores and choices by chance) and to DynamicViT's loss on tokens.
"""

import gc
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ptd_core.errors import DeviceError, LaunchError, RecipeError
from ptd_core.machine.device import resolve_device
from ptd_core.machine.randomness import torch_seed

LAUNCH = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR")  # what torchrun tells a process


@dataclass(frozen=True)
class Ranks:
    """One process among `size`; the default is a run in a single process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    @contextmanager
    def joined(cls, device: str) -> Iterator["Ranks"]:
        """The processes that torchrun has started, told by its environment; without torchrun, a single one.

        Raises DeviceError if the machine has fewer CUDA devices than processes, LaunchError as `from_environment`.
        """
        ranks = cls.from_environment()
        if ranks.size == 1:
            yield ranks
            return
        on_cuda = ranks.device(device).type == "cuda"
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
        try:
            yield ranks
        finally:
            # Whatever still holds the group, such as a trainer in a circle of references, keeps its threads alive
            # beyond this, and one that wakes up while Python ends aborts the process.
            gc.collect()
            dist.destroy_process_group()

    @classmethod
    def from_environment(cls) -> "Ranks":
        """Which process this is, by the variables that torchrun sets; a single one without WORLD_SIZE, or if it is 1.

        Raises LaunchError if it is one of several, but not told which, or where they meet.
        """
        said = {name: os.environ.get(name, "") for name in LAUNCH}
        if said["WORLD_SIZE"] in ("", "1"):
            return cls()
        try:
            size, rank, local_rank, port = (int(said[name]) for name in LAUNCH if name != "MASTER_ADDR")
        except ValueError:
            size, rank, local_rank, port = 0, 0, 0, 0
        if not (0 <= rank < size and 0 <= local_rank < size and port > 0 and said["MASTER_ADDR"]):
            environment = ", ".join(f"{name}={value}" if value else f"no {name}" for name, value in said.items())
            raise LaunchError(
                f"the environment has {environment}: start several processes with torchrun, which sets all of these; "
                "for a single one unset WORLD_SIZE"
            )
        return cls(rank, size, local_rank)

    @property
    def writes(self) -> bool:
        """Whether this is the one process that prints, and writes files."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """This process's device: the machine's CUDA devices go round by local rank, others are shared."""
        device = resolve_device(name)
        if self.size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise DeviceError(f"device = {name!r}: {self.size} processes need a device each; use 'cuda' or 'auto'")
        device = resolve_device(f"cuda:{self.local_rank}")
        torch.cuda.set_device(device)
        return device

    def shard(self, batch: Tensor) -> Tensor:
        """This process's entries of an evaluated batch (B, ...): (B / size, ...), or as many as there are."""
        return batch[self.rank :: self.size]

    def own(self, batch_size: int, pairs: bool) -> np.ndarray:
        """This process's places in a training batch, int64 (batch_size / size,), ascending.

        pairs: with each image also the one at the mirrored place, its partner in Mixup and CutMix: mirroring the
        shard then pairs its images as mirroring the whole batch would.
        """
        if not pairs:
            return np.arange(self.rank, batch_size, self.size)
        half = np.arange(self.rank, batch_size // 2, self.size)
        return np.concatenate([half, batch_size - 1 - half[::-1]])

    def seed_step(self, seed: int, epoch: int, step: int) -> None:
        """Let the draws of a step follow from its number, but the first process's: that one's random state is saved."""
        if self.rank:
            torch.manual_seed(torch_seed(seed, epoch, f"dropout of rank {self.rank} in step {step}"))

    def check_batch_size(self, batch_size: int, micro_batches: int = 1, pairs: bool = False) -> None:
        """Raises RecipeError if a batch does not divide among the processes, in so many micro-batches each.

        pairs: what divides among several processes are the pairs of images that Mixup and CutMix mix.
        """
        pairs = pairs and self.size > 1
        multiple = math.lcm(self.size * micro_batches, 2 * self.size if pairs else 1)
        if batch_size % multiple:
            each = f", each in {micro_batches} micro-batches (accumulate_steps)" if micro_batches > 1 else ""
            why = ", which take whole pairs of mixed images" if pairs else ""
            raise RecipeError(
                f"batch_size = {batch_size}: does not divide among {self.size} processes{each}{why}; use a multiple of "
                f"{multiple}"
            )

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes."""
        if self.size == 1:
            return model
        # Batch-norm statistics are those of the whole batch already; there is nothing to broadcast.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # by newer torch
            return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    @staticmethod
    def alone(model: nn.Module) -> AbstractContextManager:
        """Within it gradients of what `parallel` made are added up in each process, and not yet averaged over them."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def global_batch_norm(self, model: nn.Module) -> nn.Module:
        """The model with batch norm over the shards of all processes; the state dict stays the same.

        Also timm's batch norm with an activation, which some of its stems have.
        """
        if self.size > 1:
            for parent in list(model.modules()):
                for name, child in parent.named_children():
                    if isinstance(child, nn.BatchNorm2d):
                        setattr(parent, name, GlobalBatchNorm2d.like(child))
        return model

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, without gradients."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process; all of them must ask."""
        if self.size == 1:
            return flag
        flags = torch.tensor(float(flag))  # on the CPU: asking does not wait for the device
        dist.all_reduce(flags)
        return bool(flags)

    def broadcast(self, content: Any = None) -> Any:
        """What the writing process hands in, in all of them."""
        if self.size == 1:
            return content
        parcel = [content]
        dist.broadcast_object_list(parcel, src=0, device=torch.device("cpu"))
        return parcel[0]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are those of all processes' shards, equally large; on every kind of device.

    torch's own SyncBatchNorm computes on GPUs only.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> "GlobalBatchNorm2d":
        """One with the settings, parameters and statistics of `norm`, and with what that does after normalising."""
        made = cls(norm.num_features, norm.eps, norm.momentum)
        made.load_state_dict(norm.state_dict())
        made.after = nn.Sequential(*(getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)))
        return made

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self._normalised(x) if self.training else super().forward(x))

    def _normalised(self, x: Tensor) -> Tensor:
        exact, axes = x.float(), (0, 2, 3)
        mean = _mean_over_ranks(exact.mean(axes))[:, None, None]
        variance = _mean_over_ranks((exact - mean).square().mean(axes))
        with torch.no_grad():
            count = x.numel() / x.shape[1] * dist.get_world_size()
            self.running_mean.lerp_(mean.flatten(), self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = (self.weight * torch.rsqrt(variance + self.eps))[:, None, None]
        return ((exact - mean) * scale + self.bias[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sum over all processes; a gradient of each process's loss towards the sum reaches all that went into it.

    torch.distributed.nn.functional.all_reduce does the same, but is deprecated and breaks a compiled graph; what
    replaces it is private to torch.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _mean_over_ranks(x: Tensor) -> Tensor:
    return _Sum.apply(x) / dist.get_world_size()
