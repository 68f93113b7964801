"""What an arm of a sweep changes against its control, paired by seed: the same weights to begin with, the same images
in the same order."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from ptd_core.errors import OutputError
from ptd_core.records import history
from ptd_core.records.cells import Cell
from ptd_core.records.finished_runs import FinishedRun
from ptd_core.records.markdown import markdown_table
from ptd_core.records.stamp import places
from ptd_core.records.statistics import bootstrap_interval, mean_and_sd, points, t_interval

EFFECTS = "effects.csv"
SEVERAL = 5  # seeds that hardly differ equally by chance
NO_LOSS = -0.3  # points: "no loss" is said where the whole interval lies above


@dataclass(frozen=True)
class Effect:
    """One result of an arm minus that of its control, in percentage points, seed by seed.

    seeds: those that both have. differences: in their order. low, high: the bootstrap's 95 % interval of their mean;
    t_low, t_high: Student's, which with few seeds is the wider and the one that verdicts are taken from. NaN for one
    seed. faster, predicted: medians of `faster_by_seed`, NaN where it is empty; by the clock, which means something
    only where runs had a machine to themselves, and by operations.
    """

    arm: str
    control: str
    result: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    low: float
    high: float
    t_low: float
    t_high: float
    faster: float
    predicted: float

    @property
    def spread(self) -> bool:
        """Whether there is an interval that says something. Accuracies come in steps of one image, so that few
        differences may be equal by chance, and their interval is a point."""
        return self.t_low < self.t_high or (len(self.seeds) >= SEVERAL and self.t_low == self.t_high)

    @property
    def verdict(self) -> str:
        """What can be said of it, in words."""
        if math.isnan(self.t_low):
            return "one seed: nothing can be said"
        if not self.spread:
            return "few seeds, which differ equally: nothing can be said"
        if self.t_low > 0:
            return "better"
        if self.t_high < 0:
            return "worse, but by less than 0.3 points" if self.t_low > NO_LOSS else "worse"
        return "no difference seen" + (", no loss" if self.t_low > NO_LOSS else "")


def effect(arm: Cell, control: Cell, result: str = "test_accuracy") -> Effect:
    """The arm against the control. result: a column of runs.csv in percent. Raises OutputError without common seeds."""
    pairs = _pairs(arm, control)
    if not pairs:
        raise OutputError(f"{arm.name} and {control.name} have no seed in common: nothing is paired")
    seeds = tuple(ours.seed for ours, _ in pairs)
    differences = [getattr(ours, result) - getattr(theirs, result) for ours, theirs in pairs]
    gains = [faster_by_seed(arm, control, column) for column in ("train_seconds", "training_flops")]
    gains = [statistics.median(values) if values else math.nan for values in gains]
    return _effect(arm.name, control.name, result, seeds, differences, *gains)


def faster_by_seed(arm: Cell, control: Cell, column: str = "train_seconds") -> list[float]:
    """The control's training over the arm's, for each seed that both have, in their order.

    column: train_seconds or training_flops. Empty unless it is known of all, and for seconds of several devices, also
    if they are those of one run.
    """
    pairs = _pairs(arm, control)
    spent = [(getattr(ours, column), getattr(theirs, column)) for ours, theirs in pairs]
    devices = {device for pair in pairs for run in pair for device in places(run.device)}
    if not all(value > 0 for values in spent for value in values) or (column == "train_seconds" and len(devices) > 1):
        return []
    return [theirs / ours for ours, theirs in spent]


def _pairs(arm: Cell, control: Cell) -> list[tuple[FinishedRun, FinishedRun]]:
    """The runs of both that have one seed, by seed."""
    ours, theirs = ({run.seed: run for run in cell.runs} for cell in (arm, control))
    return [(ours[seed], theirs[seed]) for seed in sorted(set(ours) & set(theirs))]


def compared(pairs: Iterable[tuple[str, str]], cells: list[Cell]) -> list[Effect]:
    """The effect of each pair (arm, control), by the names of cells, of which both have runs with one seed.

    Cells of one name that differ in precision are compared with their like.
    """
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        by_name.setdefault(cell.runs[0].cell, []).append(cell)
    return [
        effect(arm, control)
        for name, other in pairs
        for arm in by_name.get(name, [])
        for control in by_name.get(other, [])
        if paired(arm, control)
    ]


def paired(arm: Cell, control: Cell) -> bool:
    """Whether the two can be compared: runs of one precision, with a seed in common."""
    return arm.runs[0].precision == control.runs[0].precision and bool(_pairs(arm, control))


def interaction(plain: Cell, one: Cell, other: Cell, both: Cell, result: str = "test_accuracy") -> Effect:
    """Of a 2 x 2: what `one` does in the presence of `other`, less what it does alone, seed by seed.

    faster, predicted: likewise, the ratio of the two gains.

    Raises OutputError unless all four cells have the same seeds.
    """
    alone, together = effect(one, plain, result), effect(both, other, result)
    if alone.seeds != together.seeds:
        raise OutputError(f"{both.name}: an interaction needs the same seeds in all four cells")
    differences = [b - a for a, b in zip(alone.differences, together.differences)]
    gains = together.faster / alone.faster, together.predicted / alone.predicted
    return _effect(both.name, one.name, result, alone.seeds, differences, *gains)


def _effect(
    arm: str,
    control: str,
    result: str,
    seeds: tuple[int, ...],
    differences: list[float],
    faster: float,
    predicted: float,
) -> Effect:
    several = len(seeds) > 1
    intervals = (bootstrap_interval(differences), t_interval(differences)) if several else ((math.nan, math.nan),) * 2
    mean, _ = mean_and_sd(differences)
    paired_by_seed = (arm, control, result, seeds, tuple(differences), mean)
    return Effect(*paired_by_seed, *intervals[0], *intervals[1], faster, predicted)


def in_words(one: Effect, interval: str = "") -> str:
    """Mean, Student's interval, called so, and number of seeds."""
    return points(list(one.differences), interval)


def write_effects(effects: list[Effect], folder: Path) -> None:
    """effects.csv, one row an arm; seeds and differences are lists joined by semicolons."""
    names = [field.name for field in fields(Effect)]
    rows = [[_text(getattr(one, name)) for name in names] + [one.verdict] for one in effects]
    history.write_rows(folder / EFFECTS, [*names, "verdict"], rows)


def _text(value: object) -> object:
    return ";".join(map(repr, value)) if isinstance(value, tuple) else value


def effects_table(effects: list[Effect], timed: bool = True) -> str:
    """Markdown: each arm minus its control in percentage points, with both intervals.

    timed: also how much faster it trained by the clock, beside what operations predict.
    """
    gains = ["faster, by operations", *(["by the clock"] if timed else [])]
    header = ["arm", "control", "n", "mean difference", "95 % bootstrap", "95 % t", *gains, "verdict"]
    rows = []
    for one in effects:
        intervals = [f"{low:+.2f} to {high:+.2f}" for low, high in ((one.low, one.high), (one.t_low, one.t_high))]
        if math.isnan(one.low):
            intervals = ["-", "-"]
        sizes = f"{one.mean:+.2f}", *intervals
        times = ("-" if math.isnan(gain) else f"{gain:.2f}x" for gain in (one.predicted, one.faster)[: len(gains)])
        rows.append([one.arm, one.control, len(one.seeds), *sizes, *times, one.verdict])
    return markdown_table(header, rows)
