"""Claims that are decided by looking again at trained models: their attention after each epoch, and fewer tokens at
evaluation. Rows are those of `evaluation.feedback` and `evaluation.table`, published under figures/evidence."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from ptd_core.chapter.answers import BASE, RECORDS
from ptd_core.chapter.judging import MEASURED, NOT_TESTED, Found, figures, verdict
from ptd_core.evaluation import feedback, table
from ptd_core.records.effects import NO_LOSS
from ptd_core.records.statistics import points, t_interval

FEEDBACK, FEWER = RECORDS / "feedback", RECORDS / "fewer_tokens"
_BLOCK = 0  # the block that drops tokens in the evidence's PTD
_LATER = 2  # where evaluation drops some too


@dataclass(frozen=True)
class Feedback:
    """Whether training on kept tokens concentrates attention on them, and dropped ones never return.

    Both are asked of the k tokens that a model's attention would keep at the curriculum's end, with all tokens there.
    Concentration is seen if Student's interval of `on_kept` after the last epoch, PTD minus all tokens by seed, lies
    above zero. Returns are seen if that of PTD's `returned`, a mean over the epochs that keep k, does. The claim holds
    if the first is seen and no token returns at all; in part if one of these is so; else it is refuted if returns are
    seen, or less attention. open: whether it is a question, without a claim to judge.
    """

    folder: Path = FEEDBACK
    open: bool = False

    def found(self) -> Found:
        if not (self.folder / feedback.FILE).exists():
            return Found(NOT_TESTED, "no records yet; parameters/sweeps/evidence/feedback.yaml asks")
        rows = [row for row in feedback.read(self.folder) if row.block == _BLOCK]
        last = max(row.epoch for row in rows)
        ours, theirs = (_by_seed(rows, arm) for arm in ("ptd", "all_tokens"))
        seeds = sorted(seed for seed in set(ours) & set(theirs) if last in ours[seed] and last in theirs[seed])
        if len(seeds) < 2:
            return Found(NOT_TESTED, f"{len(seeds)} seeds in common; an interval needs two")
        dropping = {row.epoch for row in rows if row.trained_with == row.kept}
        attended = [100 * (ours[seed][last].on_kept - theirs[seed][last].on_kept) for seed in seeds]
        back, usual = ([_returned(run[seed], dropping) for seed in seeds] for run in (ours, theirs))
        low, high = t_interval(back)
        row = ours[seeds[0]][last]
        return Found(
            MEASURED if self.open else _verdict(attended, back),
            f"attention on the {row.kept} of {row.tokens} tokens that it would keep, after the last epoch: "
            f"{points(attended)} against a model trained with all tokens, {_seen(attended)}; of the tokens that it "
            f"would leave out, while training drops as many, {statistics.mean(back):.1f} % ({low:.1f} to {high:.1f}) "
            f"would be kept an epoch later (without dropping {statistics.mean(usual):.1f} %, by chance "
            f"{100 * row.kept / row.tokens:.0f} %)",
        )


def _by_seed(rows: list[feedback.Row], arm: str) -> dict[int, dict[int, feedback.Row]]:
    """An arm's rows by seed and epoch."""
    found: dict[int, dict[int, feedback.Row]] = {}
    for row in rows:
        if row.run.startswith(f"{BASE}{arm}_seed"):
            found.setdefault(row.seed, {})[row.epoch] = row
    return found


def _returned(run: dict[int, feedback.Row], epochs: set[int]) -> float:
    """Of the tokens left out after an epoch, those kept after the next, in percent: mean over these epochs."""
    return 100 * statistics.mean(run[epoch].returned for epoch in epochs)


def _seen(attended: list[float]) -> str:
    low, high = t_interval(attended)
    return "more" if low > 0 else "less" if high < 0 else "no difference seen"


def _verdict(attended: list[float], back: list[float]) -> str:
    """By percentage points more attention and percent that return, of each seed."""
    low, high = t_interval(attended)
    seen = (low > 0) + (not any(back))
    if not seen:
        return "refuted" if t_interval(back)[0] > 0 or high < 0 else "not supported"
    return "holds" if seen == 2 else "holds in part"


@dataclass(frozen=True)
class FewerTokens:
    """What half of the tokens in block 0 at evaluation cost a model that was trained with all tokens, and how much less
    one that was trained with PTD: differences paired by seed."""

    folder: Path = FEWER

    def found(self) -> Found:
        if not (self.folder / table.FILE).exists():
            return Found(NOT_TESTED, "python -m ptd_core.evaluate measures it; no records of the evidence size yet")
        rows = table.read(self.folder)
        said = [_half(rows, score, by) for score, by in (("class_attention", "class attention"), ("random", "chance"))]
        said = "; ".join(filter(None, said))
        return Found(MEASURED, said) if said else Found(NOT_TESTED, "half of the tokens was not evaluated")


@dataclass(frozen=True)
class NothingLost:
    """Whether half of the tokens at evaluation, by class attention, lose nothing: the verdict follows from the interval
    of the differences from all tokens, of models trained with all. also: what other records say, from `figures`."""

    folder: Path = FEWER
    also: str = ""

    def found(self) -> Found:
        rows = table.read(self.folder) if (self.folder / table.FILE).exists() else []
        asked = (("class_attention", _BLOCK, 2), ("random", _BLOCK, 2), ("random", _LATER, 4))
        lost, *by_chance = (list(_losses(rows, "all_tokens", *one).values()) for one in asked)
        if len(lost) < 2:
            return Found(NOT_TESTED, "python -m ptd_core.evaluate measures it; fewer than two seeds are recorded")
        low, high = t_interval(lost)
        text = [f"half of the tokens at evaluation in block {_BLOCK}, by class attention: {points(lost)}"]
        ways = ("by chance", f"a quarter of them in block {_LATER}, by chance")
        text += [f"{way}: {points(found)}" for way, found in zip(ways, by_chance) if found]
        return Found(verdict(low, high, NO_LOSS), "; ".join(filter(None, [*text, self.also.format_map(figures())])))


def _half(rows: list[table.Row], score: str, by: str) -> str:
    """Of half of the tokens, chosen so; empty where it was not evaluated."""
    whole, ptd = (_losses(rows, arm, score) for arm in ("all_tokens", "ptd"))
    both = sorted(set(whole) & set(ptd))
    if not both:
        return ""
    paired = [ptd[seed] - whole[seed] for seed in both]
    return (
        f"half of the tokens, chosen by {by}: {points(list(whole.values()))} if trained with all; "
        f"trained with PTD {points(paired)} against that"
    )


def _losses(rows: list[table.Row], arm: str, score: str, block: int = _BLOCK, parts: int = 2) -> dict[int, float]:
    """What one of so many parts of the tokens, in a block, changes against all of them, by seed."""
    of_arm = [row for row in rows if row.run.startswith(f"{BASE}{arm}_seed")]
    whole = {row.seed: row for row in of_arm if row.whole}
    here = [row for row in of_arm if (row.method, row.score, row.blocks) == ("token_drop", score, str(block))]
    part = {row.seed: row for row in here if row.seed in whole and parts * row.kept == whole[row.seed].kept}
    return {seed: part[seed].accuracy - whole[seed].accuracy for seed in sorted(part)}
