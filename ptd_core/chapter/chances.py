"""How likely a question with so many seeds shows no loss, where there is none or a little."""

import statistics

import numpy as np

from ptd_core.chapter.answers import Answer
from ptd_core.chapter.recommending import candidates
from ptd_core.records.effects import NO_LOSS
from ptd_core.records.markdown import markdown_table
from ptd_core.records.statistics import half_width

LOSSES = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2)  # true differences from all tokens, in points
DRAWS = 100_000


def chances(after: Answer, *before: Answer) -> str:
    """Markdown: how likely `after` shows no loss of its arm, for each of LOSSES, if differences are normal and their
    standard deviation is that of a question before.

    There it is that of the same arm, or, where only one arm was asked about, that of this one. By draws, the same ones
    each time. Empty if nothing is recorded there.
    """
    rows = []
    for one in before:
        known = [arm for arm in candidates(one) if arm.loss and arm.loss.spread]
        alike = [arm for arm in known if arm.arm in after.recipes] or (known if len(known) == 1 else [])
        for arm in alike:
            sd = statistics.stdev(arm.loss.differences)
            shares = (_percent(share) for share in _of_no_loss(sd, len(after.seeds)))
            rows.append([f"{arm.arm}, {one.question}", len(arm.loss.seeds), f"{sd:.2f} points", *shares])
    header = ["differences of", "seeds", "standard deviation", *(f"{loss:+.1f} points" for loss in LOSSES)]
    return markdown_table(header, rows) if rows else ""


def _percent(share: float) -> str:
    return f"{100 * share:.{1 if share < 0.1 else 0}f} %"


def _of_no_loss(sd: float, seeds: int) -> list[float]:
    """For each of LOSSES the share of draws of so many differences whose interval lies above NO_LOSS."""
    drawn = np.random.default_rng(0).normal(0.0, sd, (DRAWS, seeds))
    low = drawn.mean(1) - half_width(1.0, seeds) * drawn.std(1, ddof=1)
    return [float((loss + low > NO_LOSS).mean()) for loss in LOSSES]
