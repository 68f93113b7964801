"""What changes over time: drop ratio, kept tokens, image size, learning rate. Pure functions of time."""

import bisect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

NO_DROP = 1e-6  # a drop ratio up to this is no drop
# Ratios are decimals that a person wrote, and floats miss them by less than this: floor((1 - 0.9) * 100) would be 9.
SLIP = 1e-9


@dataclass(frozen=True)
class Stages:
    """Values that hold one after another for shares of a run: values (.5, .75, 1) at shares (45, 40, 15).

    shares need not add up to 100. Raises ValueError unless there is one positive share for each value.
    """

    values: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or len(self.values) != len(self.shares) or min(self.shares) <= 0:
            raise ValueError(f"one share above 0 is needed for each value; got {self.values} at {self.shares}")

    def at(self, epoch: int, epochs: int) -> float:
        """The value in an epoch of a run: that of the stage in which the middle of the epoch lies."""
        ends = list(itertools.accumulate(self.shares))
        middle = (epoch + 0.5) / epochs * ends[-1]
        return self.values[min(bisect.bisect_right(ends, middle), len(ends) - 1)]


@dataclass(frozen=True)
class DropSchedule:
    """The drop ratio d(t) at epoch t, counted from 0 and constant within it. The default is the curriculum of
    Progressive Token Drop:

        d(t) = d_init                                                        t <  t_s
        d(t) = d_init + ((t - t_s) / (t_e - t_s))^gamma * (d_final - d_init)    t_s <= t < t_e
        d(t) = d_final                                                       t >= t_e

    where init = d_init, final = d_final (ratios), start = t_s, end = t_e (epochs), gamma the exponent. With hold=False,
    of RISING shapes alone, d(t) = 0 for t >= t_e. shape: one of SHAPES, which take these numbers as their docstrings
    say; what a docstring does not name, the shape has no use for. epochs: of the run,
    for those that need them. stages: kept shares, of "steps" alone. cycle: epochs of a period, of "cyclic" alone.
    tail: epochs at the end with all tokens. multiple: kept tokens are multiples of it.

    Raises ValueError, naming the field, for ratios outside 0 <= d < 1, epochs out of order, gamma not above 0, an
    unknown shape, or what a shape lacks.
    """

    init: float = 0.0
    final: float = 0.35
    start: int = 40
    end: int = 140
    gamma: float = 2.0
    hold: bool = True
    shape: str = "polynomial"
    epochs: int | None = None
    stages: Stages | None = None
    cycle: int | None = None
    tail: int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        for name in ("init", "final"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share of the patch tokens, from 0 to below 1; got {getattr(self, name)}")
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}; got {self.shape!r}")
        if self.start < 0 or (self.shape in TO_END and self.end < self.start):
            raise ValueError(f"start and end are epochs, 0 <= start <= end; got {self.start} and {self.end}")
        if not self.gamma > 0:
            raise ValueError(f"gamma must be above 0; got {self.gamma}")
        if not self.hold and self.shape not in RISING:
            raise ValueError(
                f"hold = False is of shape = {' or '.join(map(repr, RISING))}; got {self.shape!r}, "
                "which `tail` gives epochs with all tokens at the end"
            )
        if self.epochs is None and (self.shape in ("reversed", "steps") or self.tail):
            raise ValueError(f"epochs, the run's, must be known for shape = {self.shape!r} and tail = {self.tail}")
        if (self.stages is None) == (self.shape == "steps"):
            raise ValueError(f"stages belong to shape = 'steps'; got {self.stages} for {self.shape!r}")
        if self.stages and not all(0 < kept <= 1 for kept in self.stages.values):
            raise ValueError(f"stages hold kept shares, above 0 up to 1; got {self.stages.values}")
        if (self.cycle is None) == (self.shape == "cyclic") or (self.cycle is not None and self.cycle < 2):
            raise ValueError(f"cycle, at least 2 epochs, belongs to shape = 'cyclic'; got {self.cycle}")
        if self.tail < 0 or self.multiple < 1:
            raise ValueError(f"tail must be at least 0 and multiple at least 1; got {self.tail} and {self.multiple}")

    @property
    def given_ratios(self) -> dict[str, tuple[float, ...]]:
        """The drop ratios it is given, by field. An epoch's lies between them, or is 0."""
        if self.stages:  # of the shape that has no use for the other two
            return {"stages": tuple(1 - kept for kept in self.stages.values)}
        return {"init": (self.init,), "final": (self.final,)}

    def ratio(self, epoch: int) -> float:
        """d(t), the share of patch tokens to drop at an epoch."""
        if self.tail and epoch >= self.epochs - self.tail:
            return 0.0
        return SHAPES[self.shape](self, epoch)

    def kept(self, epoch: int, patch_tokens: int) -> int:
        """k, the number of patch tokens kept at an epoch: floor((1 - d(t)) N), never below 1.

        Where some are dropped, the largest multiple of `multiple` up to that, but never below `multiple`.
        """
        return self.kept_at_ratio(self.ratio(epoch), patch_tokens)

    def kept_at_ratio(self, ratio: float, patch_tokens: int) -> int:
        """`kept` for a drop ratio."""
        kept = max(1, self.tokens_at_ratio(ratio, patch_tokens))
        if kept == patch_tokens:
            return kept
        return min(patch_tokens, max(kept // self.multiple, 1) * self.multiple)

    @staticmethod
    def tokens_at_ratio(ratio: float, patch_tokens: int) -> int:
        """floor((1 - d) N); N for d up to 1e-6. May be 0, which recipes refuse."""
        return patch_tokens if ratio <= NO_DROP else math.floor((1 - ratio) * patch_tokens + SLIP)


# Shapes: functions (schedule, epoch) -> drop ratio.


def rising(schedule: DropSchedule, epoch: int, rise: Callable[[float], float]) -> float:
    """init before start and final from end on (0 without hold); between them on the way that `rise` of 0 to 1 goes."""
    if epoch >= schedule.end:
        return schedule.final if schedule.hold else 0.0
    if epoch < schedule.start:
        return schedule.init
    progress = (epoch - schedule.start) / (schedule.end - schedule.start)
    return schedule.init + rise(progress) * (schedule.final - schedule.init)


def polynomial(schedule: DropSchedule, epoch: int) -> float:
    """init, rising with exponent gamma from start to end, then final; falling if final is below init."""
    return rising(schedule, epoch, lambda progress: progress**schedule.gamma)


def cosine(schedule: DropSchedule, epoch: int) -> float:
    """The same along half a cosine, as EViT reduces its keep rate; gamma is not used."""
    return rising(schedule, epoch, lambda progress: (1 - math.cos(math.pi * progress)) / 2)


def reversed_in_time(schedule: DropSchedule, epoch: int) -> float:
    """The polynomial mirrored in time: the last epoch's ratio first. As many tokens in a run, few to all."""
    return polynomial(schedule, schedule.epochs - 1 - epoch)


def steps(schedule: DropSchedule, epoch: int) -> float:
    """One minus the kept share of the stage that the epoch is in."""
    return 1 - schedule.stages.at(epoch, schedule.epochs)


def flat(schedule: DropSchedule, epoch: int) -> float:
    """init before start, final from then on."""
    return schedule.init if epoch < schedule.start else schedule.final


def cyclic(schedule: DropSchedule, epoch: int) -> float:
    """init before start; from then on up to final and back to init along a cosine, once in each cycle."""
    phase = max(0, epoch - schedule.start) / schedule.cycle
    return schedule.init + (schedule.final - schedule.init) * (1 - math.cos(2 * math.pi * phase)) / 2


SHAPES: dict[str, Callable[[DropSchedule, int], float]] = {
    "polynomial": polynomial,
    "cosine": cosine,
    "reversed": reversed_in_time,
    "steps": steps,
    "flat": flat,
    "cyclic": cyclic,
}
RISING = ("polynomial", "cosine")  # from start to end, and then held or not
TO_END = (*RISING, "reversed")  # all that `end` means something to


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
