"""Claims that are decided by looking again at trained models: their attention after each epoch, and fewer tokens at
evaluation. Rows are those of `evaluation.feedback` and `evaluation.table`, published under figures/evidence."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from ptd_core.chapter.answers import BASE, RECORDS
from ptd_core.chapter.judging import MEASURED, NOT_TESTED, Found
from ptd_core.evaluation import feedback, table
from ptd_core.records.statistics import points, t_interval

FEEDBACK, FEWER = RECORDS / "feedback", RECORDS / "fewer_tokens"
_BLOCK = 0  # the block that drops tokens in the evidence's PTD


@dataclass(frozen=True)
class Feedback:
    """Whether training on kept tokens concentrates attention on them, and whether dropped ones come back.

    The verdict: concentration is Student's interval of the paired difference of `on_kept` after the last epoch, PTD
    minus all tokens; a return is any token that was dropped after one epoch of PTD's dropping and kept after the next.
    Both halves of the claim hold, or one, or none: refuted then by the tokens that return. open: whether it is a
    question, without a claim to judge.
    """

    folder: Path = FEEDBACK
    open: bool = False

    def found(self) -> Found:
        if not (self.folder / feedback.FILE).exists():
            return Found(NOT_TESTED, "no records yet; parameters/sweeps/evidence/feedback.yaml asks")
        rows = [row for row in feedback.read(self.folder) if row.block == _BLOCK]
        last = max(row.epoch for row in rows)
        ours, theirs = (
            {row.seed: row for row in rows if row.run.startswith(f"{BASE}{arm}_seed") and row.epoch == last}
            for arm in ("ptd", "all_tokens")
        )
        seeds = sorted(set(ours) & set(theirs))
        if len(seeds) < 2:
            return Found(NOT_TESTED, f"{len(seeds)} seeds in common; an interval needs two")
        low, high = t_interval([100 * (ours[seed].on_kept - theirs[seed].on_kept) for seed in seeds])
        dropping = [row for row in rows if row.run.startswith(f"{BASE}ptd_seed") and row.trained_with < row.tokens]
        epochs = {row.epoch for row in dropping}
        without = [row for row in rows if row.run.startswith(f"{BASE}all_tokens_seed") and row.epoch in epochs]
        returned, usual = (statistics.mean(row.returned for row in some) for some in (dropping, without))
        verdict = MEASURED if self.open else ("refuted", "holds in part", "holds")[(low > 0) + (returned == 0)]
        concentrates = "more" if low > 0 else "less" if high < 0 else "no difference seen"
        chance = ours[seeds[0]].kept / ours[seeds[0]].tokens
        return Found(
            verdict,
            f"attention on the kept tokens {(low + high) / 2:+.2f} points against a model trained with all tokens "
            f"({low:+.2f} to {high:+.2f}, n = {len(seeds)}), {concentrates}; while tokens are dropped "
            f"{100 * returned:.0f} % of the dropped ones are kept an epoch later "
            f"(without dropping: {100 * usual:.0f} %, by chance {100 * chance:.0f} %)",
        )


@dataclass(frozen=True)
class FewerTokens:
    """What half of the tokens in block 0 at evaluation cost models that were trained with all tokens, and with PTD."""

    folder: Path = FEWER

    def found(self) -> Found:
        if not (self.folder / table.FILE).exists():
            return Found(NOT_TESTED, "python -m ptd_core.evaluate measures it; no records of the evidence size yet")
        rows = table.read(self.folder)
        said = []
        for score, by in (("class_attention", "class attention"), ("random", "a random choice")):
            losses = {words: _losses(rows, arm, score) for arm, words in _ARMS.items()}
            arms = [f"trained with {words} {points(values)}" for words, values in losses.items() if values]
            if arms:
                said.append(f"half of the tokens by {by}: {', '.join(arms)}")
        return Found(MEASURED, "; ".join(said)) if said else Found(NOT_TESTED, "half of the tokens was not evaluated")


_ARMS = {"all_tokens": "all tokens", "ptd": "PTD"}


def _losses(rows: list[table.Row], arm: str, score: str) -> list[float]:
    """What half of the tokens, in the block that drops in training, change against all of them, seed by seed."""
    of_arm = [row for row in rows if row.run.startswith(f"{BASE}{arm}_seed")]
    whole = {row.seed: row for row in of_arm if row.whole}
    here = [row for row in of_arm if (row.method, row.score, row.blocks) == ("token_drop", score, str(_BLOCK))]
    half = {row.seed: row for row in here if row.seed in whole and 2 * row.kept == whole[row.seed].kept}
    return [half[seed].accuracy - whole[seed].accuracy for seed in sorted(half)]
