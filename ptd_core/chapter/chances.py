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


def chances(before: Answer, after: Answer) -> str:
    """Markdown: each arm that `after` confirms, and how likely no loss is shown of it there, for each of LOSSES.

    If the differences between seeds are normal and vary as they do in `before`; by draws, the same ones each time.
    Empty if nothing is recorded there.
    """
    known = {one.arm: one.loss for one in candidates(before) if one.loss and one.loss.spread}
    arms = [arm for arm in after.recipes if arm in known]
    if not arms:
        return ""
    rows = []
    for arm in arms:
        sd = statistics.stdev(known[arm].differences)
        shares = _of_no_loss(sd, len(after.seeds))
        rows.append([arm, f"{sd:.2f} points", *(f"{100 * share:.0f} %" for share in shares)])
    return markdown_table(["arm", "varies by", *(f"{loss:+.1f} points" for loss in LOSSES)], rows)


def _of_no_loss(sd: float, seeds: int) -> list[float]:
    """For each of LOSSES the share of draws of so many differences whose interval lies above NO_LOSS."""
    drawn = np.random.default_rng(0).normal(0.0, sd, (DRAWS, seeds))
    low = drawn.mean(1) - half_width(1.0, seeds) * drawn.std(1, ddof=1)
    return [float((loss + low > NO_LOSS).mean()) for loss in LOSSES]
