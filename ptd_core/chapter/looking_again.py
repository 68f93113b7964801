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
_ARMS = "ptd", "all_tokens"


@dataclass(frozen=True)
class Concentration:
    """Whether training on kept tokens concentrates class attention on them.

    Asked of the k tokens that a model's attention would keep at the curriculum's end, with all tokens there: what
    share of it (`on_kept`) they have after the last epoch, PTD minus all tokens by seed. By Student's interval it
    holds if more is seen in the block that drops tokens, in part if only in another, and is refuted if less is seen in
    the block that drops.
    """

    folder: Path = FEEDBACK

    def found(self) -> Found:
        if isinstance(asked := _asked(self.folder), Found):
            return asked
        rows, last, seeds = asked
        seen = {}
        for block in sorted({row.block for row in rows}):
            ours, theirs = (_by_seed(rows, arm, block) for arm in _ARMS)
            seen[block] = [100 * (ours[seed][last].on_kept - theirs[seed][last].on_kept) for seed in seeds]
        intervals = {block: t_interval(attended) for block, attended in seen.items()}
        decided = verdict(*intervals[_BLOCK])
        if decided == "not supported" and any(low > 0 for low, _ in intervals.values()):
            decided = "holds in part"
        told = (f"in block {block} {points(attended)}, {_seen(*intervals[block])}" for block, attended in seen.items())
        return Found(
            decided,
            f"attention on the {rows[0].kept} of {rows[0].tokens} tokens that it would keep, after the last epoch, "
            f"models trained with PTD, which drops in block {_BLOCK}, against those trained with all tokens: "
            f"{'; '.join(told)}",
        )


@dataclass(frozen=True)
class NoReturn:
    """Whether a dropped token never returns: of those that attention leaves out after an epoch, as many as training
    drops then, the share kept after the next (`returned`), a mean over these epochs. Holds if no token does in any run,
    refuted if Student's interval of PTD's share lies above zero."""

    folder: Path = FEEDBACK

    def found(self) -> Found:
        if isinstance(asked := _asked(self.folder), Found):
            return asked
        rows, _, seeds = asked
        ours, theirs = (_by_seed(rows, arm, _BLOCK) for arm in _ARMS)
        dropping = {row.epoch for row in rows if row.trained_with == row.kept}
        back, usual = ([_returned(run[seed], dropping) for seed in seeds] for run in (ours, theirs))
        low, high = t_interval(back)
        kept, tokens = rows[0].kept, rows[0].tokens
        return Found(
            "holds" if not any(back) else "refuted" if low > 0 else "not supported",
            f"of the {tokens - kept} tokens that attention in block {_BLOCK} leaves out after an epoch, "
            f"{statistics.mean(back):.1f} % ({low:.1f} to {high:.1f}, n = {len(back)}) are kept after the next, while "
            f"training with PTD drops as many; {statistics.mean(usual):.1f} % in models trained with all tokens, "
            f"{100 * kept / tokens:.0f} % by chance",
        )


@dataclass(frozen=True)
class Feedback:
    """Both of these as a question, without a claim to judge."""

    folder: Path = FEEDBACK

    def found(self) -> Found:
        both = [test(self.folder).found() for test in (Concentration, NoReturn)]
        if both[0].verdict == NOT_TESTED:
            return both[0]
        return Found(MEASURED, "; ".join(one.text for one in both))


def _asked(folder: Path) -> tuple[list[feedback.Row], int, list[int]] | Found:
    """The rows of these measures, their last epoch, and the seeds that both arms have then; or why nothing is found."""
    if not (folder / feedback.FILE).exists():
        return Found(NOT_TESTED, "no records yet; parameters/sweeps/evidence/feedback.yaml asks")
    rows = feedback.read(folder)
    last = max(row.epoch for row in rows)
    ours, theirs = (_by_seed(rows, arm, _BLOCK) for arm in _ARMS)
    seeds = sorted(seed for seed in set(ours) & set(theirs) if last in ours[seed] and last in theirs[seed])
    if len(seeds) < 2:
        return Found(NOT_TESTED, f"{len(seeds)} seeds in common; an interval needs two")
    return rows, last, seeds


def _by_seed(rows: list[feedback.Row], arm: str, block: int) -> dict[int, dict[int, feedback.Row]]:
    """An arm's rows in one block by seed and epoch."""
    found: dict[int, dict[int, feedback.Row]] = {}
    for row in rows:
        if row.block == block and row.run.startswith(f"{BASE}{arm}_seed"):
            found.setdefault(row.seed, {})[row.epoch] = row
    return found


def _returned(run: dict[int, feedback.Row], epochs: set[int]) -> float:
    """Of the tokens left out after an epoch, those kept after the next, in percent: mean over these epochs."""
    return 100 * statistics.mean(run[epoch].returned for epoch in epochs)


def _seen(low: float, high: float) -> str:
    return "more" if low > 0 else "less" if high < 0 else "no difference seen"


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
        f"half of the tokens, chosen by {by}, change accuracy by {points(list(whole.values()))} if a model was trained "
        f"with all; if it was trained with PTD, that change is higher by {points(paired)}"
    )


def _losses(rows: list[table.Row], arm: str, score: str, block: int = _BLOCK, parts: int = 2) -> dict[int, float]:
    """What one of so many parts of the tokens, in a block, changes against all of them, by seed."""
    of_arm = [row for row in rows if row.run.startswith(f"{BASE}{arm}_seed")]
    whole = {row.seed: row for row in of_arm if row.whole}
    here = [row for row in of_arm if (row.method, row.score, row.blocks) == ("token_drop", score, str(block))]
    part = {row.seed: row for row in here if row.seed in whole and parts * row.kept == whole[row.seed].kept}
    return {seed: part[seed].accuracy - whole[seed].accuracy for seed in sorted(part)}
