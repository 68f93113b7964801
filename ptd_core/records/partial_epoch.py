"""What a trainer has done of the epoch under way, so that a run can go on from the middle of one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ptd_core.errors import TrainingError
from ptd_core.machine.randomness import random_state, set_random_state


@dataclass
class PartialEpoch:
    """The first `step` training steps of an epoch.

    losses: float32 (steps,), 0 for the steps to come; correct: float32 (), images classified right so far; both on
    the device. seconds: spent in training; data_seconds: of these, on waiting for batches. random: the random state to
    go on with, None in an epoch begun here.
    """

    losses: Tensor
    correct: Tensor
    step: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    random: dict[str, Tensor] | None = None

    @classmethod
    def begin(cls, steps: int, device: torch.device) -> "PartialEpoch":
        return cls(torch.zeros(steps, device=device), torch.zeros((), device=device))

    def seed(self, seed: int, device: torch.device) -> None:
        """Seed all of PyTorch's generators for the epoch, or set them to where they stood."""
        torch.manual_seed(seed)
        if self.random is not None:
            set_random_state(device, self.random)
            self.random = None

    def check_finite(self, epoch: int) -> None:
        """Raises TrainingError, naming epoch and step, if a loss so far is not a number."""
        losses = self.losses[: self.step]
        finite = torch.isfinite(losses)
        if not finite.all():
            step = int((~finite).nonzero()[0])
            raise TrainingError(
                f"the loss is {losses[step].item()} at epoch {epoch + 1}, step {step + 1}; "
                "what was recorded until the epoch before is kept. A smaller lr or a smaller grad_clip usually helps"
            )

    def state_dict(self, device: torch.device, epoch: int) -> dict:
        """Raises TrainingError as `check_finite` does: what is saved will be gone on with."""
        self.check_finite(epoch)
        return {
            "losses": self.losses.clone(),
            "correct": self.correct.clone(),
            "step": self.step,
            "seconds": self.seconds,
            "data_seconds": self.data_seconds,
            "random": self.random or random_state(device),
        }

    @classmethod
    def from_state(cls, state: dict, device: torch.device) -> "PartialEpoch":
        tensors = {name: state[name].to(device, copy=True) for name in ("losses", "correct")}
        return cls(**{**state, **tensors})
