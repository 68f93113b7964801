"""Evaluations with fewer tokens as rows: evaluation.csv, one row a run and way of evaluating, and a table of means."""

import math
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from ptd_core.records.markdown import markdown_table
from ptd_core.records.rows import read_table, write_table
from ptd_core.records.statistics import spread

FILE = "evaluation.csv"


@dataclass(frozen=True)
class Row:
    """One run evaluated in one way. What is not known is NaN.

    cell: the name that runs share which differ in their seed only. method, score, choice, fate, attended, blocks: the
    policy, empty where the method has its own; score and fate with the block that they were given, if any. kept:
    patch tokens that its last dropping block keeps. accuracy in percent, loss in nats, object_kept a share, as in
    `Outcome`. images_per_second: of forward passes, on `device`. faster, predicted: how many times faster than with
    all tokens, as measured and by operations alone.
    """

    run: str
    cell: str
    seed: int
    method: str
    score: str
    choice: str
    fate: str
    attended: str
    blocks: str
    kept: int
    images: int
    accuracy: float
    loss: float
    object_kept: float
    images_per_second: float
    faster: float
    predicted: float
    precision: str
    device: str
    torch: str
    commit: str

    @property
    def policy(self) -> tuple[str, ...]:
        return self.method, self.score, self.choice, self.fate, self.attended, self.blocks

    @property
    def whole(self) -> bool:
        """Whether nothing was dropped: then every policy is the same."""
        return self.predicted == 1


def write(rows: list[Row], folder: Path) -> None:
    """Values read back exactly. Raises OutputError if it cannot be written."""
    write_table(rows, folder / FILE)


def read(folder: Path) -> list[Row]:
    """Raises OutputError if the folder's evaluation.csv is not there or damaged."""
    return read_table(Row, folder / FILE, "a table of evaluations")


def lines(rows: list[Row]) -> dict[tuple[str, tuple[str, ...]], list[list[Row]]]:
    """Rows by (cell, policy), most tokens first; the runs of one cell with as many tokens stand together."""
    found: dict[tuple, dict[int, list[Row]]] = {}
    for row in rows:
        found.setdefault((row.cell, row.policy), {}).setdefault(row.kept, []).append(row)
    return {line: [of_kept[kept] for kept in sorted(of_kept, reverse=True)] for line, of_kept in found.items()}


def names(rows: list[Row]) -> dict[tuple[str, tuple[str, ...]], str]:
    """What to call each (cell, policy): only what differs between them, and at least the score or method."""
    keys = list(lines(rows))
    differ = [len({policy[part] for _, policy in keys} - {""}) > 1 for part in range(len(keys[0][1]))]
    several = len({cell for cell, _ in keys}) > 1
    found = {}
    for cell, (method, score, choice, fate, attended, blocks) in keys:
        words = [score or method]
        words += [word for word, shown in zip((choice, fate), differ[2:4]) if shown and word]
        words += [f"attends {attended}"] if differ[4] and attended else []
        words += [f"block {blocks}"] if differ[5] and blocks else []
        found[cell, (method, score, choice, fate, attended, blocks)] = ", ".join([cell] * several + words)
    return found


def markdown(rows: list[Row]) -> str:
    """Means over seeds, with their standard deviations. Speed is that of the first run of a cell, the one timed."""
    called = names(rows)
    head = ["evaluated by", "kept tokens", "seeds", "accuracy", "object under them", "images/s", "faster", "predicted"]
    timed, known = (any(not math.isnan(v) for v in values) for values in (
        [row.images_per_second for row in rows], [row.object_kept for row in rows]))  # fmt: skip
    shown = [True, True, True, True, known, timed, timed, True]
    several = len({row.cell for row in rows}) > 1
    whole = set()
    table = []
    for line, groups in lines(rows).items():
        for group in groups:
            first, name = group[0], called[line]
            covered = [100 * row.object_kept for row in group]
            if first.whole:
                if first.cell in whole:
                    continue
                whole.add(first.cell)
                name = f"{first.cell}, all tokens" if several else "all tokens"
            table.append([
                name, str(first.kept), ", ".join(str(row.seed) for row in group),
                spread([row.accuracy for row in group]), "" if math.isnan(covered[0]) else spread(covered),
                _number(first.images_per_second, "{:.0f}"), _number(first.faster, "{:.2f}x"),
                _number(first.predicted, "{:.2f}x"),
            ])  # fmt: skip
    return markdown_table(compress(head, shown), (compress(row, shown) for row in table))


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else form.format(value)
