"""What an arm saves at equal accuracy: the operations with which all tokens reach as much, over the arm's own."""

from dataclasses import dataclass

import numpy as np

from ptd_core.chapter.answers import Answer
from ptd_core.chapter.recommending import WHOLE, all_tokens
from ptd_core.records.cells import Cell
from ptd_core.records.markdown import markdown_table
from ptd_core.records.statistics import half_width

_STEPS = 2000  # places on the line of all tokens that are asked


@dataclass(frozen=True)
class Equal:
    """An arm and the training with all tokens that reaches as much, by operations: 1 is all tokens in all epochs.

    cost: the arm's. needed: the least with which all tokens reach its mean accuracy. low, high: the 95 % interval of
    that, all places on the line of all tokens from which Student's interval cannot tell the arm (Fieller's way to an
    interval). least, most: the ends of the line; needed, low and high that lie there may lie beyond. seeds: those that
    the arm and the line have in common.
    """

    arm: str
    cost: float
    needed: float
    low: float
    high: float
    least: float
    most: float
    seeds: tuple[int, ...]


def equals(one: Answer, *others: Answer) -> list[Equal]:
    """Every arm that saves something and lacks no record, those that save most at equal accuracy first.

    The line of all tokens is straight, in every seed, between the numbers of epochs that were trained, for this
    question or the others. Empty without records of two of these, or with fewer than two seeds.
    """
    line = all_tokens(one, *others)
    if WHOLE not in line:
        return []
    arms = {arm: cell for arm in one.recipes if arm not in line and (cell := one.cell(arm))}
    whole = line[WHOLE].runs[0].training_flops
    costs = {arm: cell.runs[0].training_flops / whole for arm, cell in (line | arms).items()}
    line = dict(sorted(line.items(), key=lambda item: costs[item[0]]))
    found = [_equal(arm, cell, line, costs) for arm, cell in arms.items() if costs[arm] < 1]
    return sorted(filter(None, found), key=lambda equal: -equal.needed / equal.cost)


def _equal(arm: str, cell: Cell, line: dict[str, Cell], costs: dict[str, float]) -> Equal | None:
    by_seed = [{run.seed: run.test_accuracy for run in one.runs} for one in (cell, *line.values())]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    if len(seeds) < 2 or len(line) < 2:
        return None
    places = np.array([costs[name] for name in line])
    asked = np.linspace(places[0], places[-1], _STEPS)
    ours, *theirs = ([accuracies[seed] for seed in seeds] for accuracies in by_seed)
    differences = np.array(  # (seeds, places asked)
        [own - np.interp(asked, places, curve) for own, curve in zip(ours, np.array(theirs).T)]
    )
    mean, half = differences.mean(0), half_width(1.0, len(seeds)) * differences.std(0, ddof=1)
    alike = asked[abs(mean) <= half]
    needed = asked[np.argmax(mean <= 0)] if (mean <= 0).any() else asked[-1]
    if not alike.size:  # above or below the whole line, or an interval between two places
        alike = np.array([needed])
    ends = float(places[0]), float(places[-1])
    return Equal(arm, costs[arm], float(needed), float(min(alike[0], needed)), float(max(alike[-1], needed)), *ends,
                 tuple(seeds))  # fmt: skip


def equal_table(found: list[Equal]) -> str:
    """Markdown."""
    header = ["arm", "operations (all tokens: 1)", "all tokens reach as much with", "95 % interval",
              "faster at equal accuracy, by operations", "95 % interval", "n"]  # fmt: skip
    rows = []
    for one in found:
        needed, low, high = (_beyond(value, one) for value in (one.needed, one.low, one.high))
        faster = [_beyond(value, one, one.cost, "x") for value in (one.needed, one.low, one.high)]
        intervals = f"{low} to {high}", f"{faster[1]} to {faster[2]}"
        rows.append([one.arm, f"{one.cost:.2f}", needed, intervals[0], faster[0], intervals[1], len(one.seeds)])
    return markdown_table(header, rows)


def _beyond(value: float, one: Equal, over: float = 1.0, unit: str = "") -> str:
    """A place on the line of all tokens over `over`, and whether it may lie beyond the line's end."""
    beyond = "beyond " if value >= one.most else "below " if value <= one.least else ""
    return f"{beyond}{value / over:.2f}{unit}"
