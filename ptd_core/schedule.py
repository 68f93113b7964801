"""What changes over time: the drop ratio, the kept tokens, the learning rate. Pure functions of time."""

import math
from dataclasses import dataclass

NO_DROP = 1e-6  # a drop ratio up to this is no drop
# Ratios are decimals that a person wrote, and floats miss them by less than this: floor((1 - 0.9) * 100) would be 9.
SLIP = 1e-9


@dataclass(frozen=True)
class DropSchedule:
    """The curriculum of Progressive Token Drop.

        d(t) = d_init                                                        t <  t_s
        d(t) = d_init + ((t - t_s) / (t_e - t_s))^gamma * (d_final - d_init)    t_s <= t < t_e
        d(t) = d_final                                                       t >= t_e

    where t is the epoch, counted from 0 and constant within it; init = d_init, final = d_final (ratios),
    start = t_s, end = t_e (epochs), gamma the exponent. With hold=False, d(t) = 0 for t >= t_e.
    Raises ValueError, naming the field, for ratios outside 0 <= d < 1, epochs out of order, or gamma not above 0.
    """

    init: float = 0.0
    final: float = 0.35
    start: int = 40
    end: int = 140
    gamma: float = 2.0
    hold: bool = True

    def __post_init__(self) -> None:
        for name in ("init", "final"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share of the patch tokens, from 0 to below 1; got {getattr(self, name)}")
        if not 0 <= self.start <= self.end:
            raise ValueError(f"start and end are epochs, 0 <= start <= end; got {self.start} and {self.end}")
        if not self.gamma > 0:
            raise ValueError(f"gamma must be above 0; got {self.gamma}")

    def ratio(self, epoch: int) -> float:
        """d(t), the share of patch tokens to drop at an epoch."""
        if epoch >= self.end:
            return self.final if self.hold else 0.0
        if epoch < self.start:
            return self.init
        progress = (epoch - self.start) / (self.end - self.start)
        return self.init + progress**self.gamma * (self.final - self.init)

    def kept(self, epoch: int, patch_tokens: int) -> int:
        """k, the number of patch tokens kept at an epoch: floor((1 - d(t)) N), never below 1."""
        return max(1, self.tokens_at_ratio(self.ratio(epoch), patch_tokens))

    @staticmethod
    def tokens_at_ratio(ratio: float, patch_tokens: int) -> int:
        """floor((1 - d) N); N for d up to 1e-6. May be 0, which recipes refuse."""
        return patch_tokens if ratio <= NO_DROP else math.floor((1 - ratio) * patch_tokens + SLIP)


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Learning rate of one optimizer step, counted from 0: linear warm-up, then cosine to 0.

        lr(s) = peak * (s + 1) / W                                    s <  W
        lr(s) = peak * (1 + cos(pi * (s - W) / (S - W))) / 2             W <= s <= S

    where W = warmup_steps and S = total_steps. The last warm-up step and the step after it run at the peak;
    0 is reached at s = S, just after the last step, so no step is wasted.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if step >= total_steps:
        return 0.0
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
