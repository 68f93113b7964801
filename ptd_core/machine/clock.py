"""Timing of cases against each other: interleaved, repeated, with their spread."""

import functools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ptd_core.machine.device import synchronize

MIN_SAMPLE_SECONDS = 0.1  # a shorter case is called several times for one sample
MAX_CALLS = 100
STEADY, WARM_UP = 0.03, 10  # share of its time by which a call must be faster to call again; calls at most


@dataclass(frozen=True)
class Timing:
    """Samples of one case, in seconds a call, in the order of the rounds. first: its very first call."""

    seconds: list[float]
    first: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half of the distance between the quartiles, as a share of the median."""
        if len(self.seconds) < 2:
            return math.nan
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median

    def over(self, other: "Timing") -> float:
        """This case's time over another's, the median of the ratios within each round."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.seconds, other.seconds))

    def as_dict(self) -> dict:
        return {"median_seconds": self.median, "spread": self.spread, "first_call_seconds": self.first,
                "seconds": self.seconds}  # fmt: skip


def interleave(cases: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, Timing]:
    """Time the cases in turn, `rounds` times, beginning each round with another one.

    All cases of a round meet the same neighbours on a shared machine. Not among the samples are the first call of
    each (memory, compilation) and those that follow it until they get no faster, see `warm_up`.
    """
    first = {name: _seconds(case, 1, device) for name, case in cases.items()}
    warm = warm_up({name: functools.partial(_seconds, case, 1, device) for name, case in cases.items()})
    calls = {name: min(MAX_CALLS, max(1, math.ceil(MIN_SAMPLE_SECONDS / warm[name]))) for name in cases}
    samples = {name: [] for name in cases}
    names = list(cases)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            samples[name].append(_seconds(cases[name], calls[name], device))
    return {name: Timing(samples[name], first[name]) for name in names}


def warm_up(cases: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Call each case, which returns its seconds, in turn until it is no longer getting faster; each one's fastest call.

    Until a call has not beaten the fastest before it by more than STEADY; at most WARM_UP calls of each.
    """
    fastest = dict.fromkeys(cases, math.inf)
    cold = list(cases)
    for _ in range(WARM_UP):
        still = []
        for name in cold:
            seconds = cases[name]()
            if seconds < (1 - STEADY) * fastest[name]:
                still.append(name)
            fastest[name] = min(fastest[name], seconds)
        cold = still
    return fastest


def _seconds(case: Callable[[], object], calls: int, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        case()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def with_times(rows: list[dict], timings: dict[str, Timing], images: int | None) -> list[dict]:
    """The rows, which have a "case" each, with that case's timing; images: of one call, for a rate."""
    timed = []
    for row in rows:
        timing = timings[row["case"]]
        speed = {"images_per_second": images / timing.median} if images else {}
        timed.append({**row, **speed, **timing.as_dict()})
    return timed
