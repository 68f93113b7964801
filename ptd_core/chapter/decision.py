"""Chapter 5's page of decision: what each training reached in what time, and what follows from that."""

import math
import statistics
from dataclasses import dataclass

import torch
from IPython.display import Markdown

from ptd_core.chapter.notebook import table
from ptd_core.records.cells import Cell
from ptd_core.records.effects import NO_LOSS, Effect, effect, in_words
from ptd_core.records.statistics import half_width, spread
from ptd_core.run import Run

ALL, FEWER, EQUAL_TIME = "all tokens", "fewer tokens", "all tokens, equal time"
UNEQUAL = 1.15  # times of training of which one is larger by this are not called equal
MORE_SEEDS = (3, 5, 10, 20)


@dataclass(frozen=True)
class Trained:
    """cells: the finished runs of each arm. first: the run of the first seed with fewer tokens. test_labels: int64
    (n,), of the images that accuracies are of."""

    cells: dict[str, Cell]
    first: Run
    test_labels: torch.Tensor


def learnt_above(labels: torch.Tensor) -> float:
    """Test accuracy in percent up to which nothing is shown to be learnt: that of always saying the largest class, and
    two standard errors of so many images."""
    share = labels.bincount().max().item() / len(labels)
    return 100 * (share + 2 * math.sqrt(share * (1 - share) / len(labels)))


def decided(found: Trained) -> Markdown:
    """What each arm reached in what time, the differences, what they do not hold, and what follows from them."""
    cells, labels = found.cells, found.test_labels
    rows = [
        [name, cell.runs[0].epochs, spread(cell.values("test_accuracy")), f"{_seconds(cell):.1f} s"]
        for name, cell in cells.items()
    ]
    loss, gain = (effect(cells[FEWER], cells[control]) for control in (ALL, EQUAL_TIME))
    lines = [
        table(["trained with", "epochs", f"test accuracy, {len(cells[FEWER].runs)} seed(s)", "training"], rows).data,
        "",
        f"- Against all tokens, as many epochs: {in_words(loss, '95 % ')}; "
        + ("on several machines." if math.isnan(loss.faster) else f"trained {loss.faster:.2f}x faster."),
        f"- Against all tokens, as much time: {in_words(gain, '95 % ')}.",
        f"- The intervals are over seeds, on these {len(labels):,} test images; one image is {100 / len(labels):.2f} "
        "points.",
    ]
    if math.isnan(gain.faster):
        lines.append("- **Whether the times were equal is not known**: seconds of several machines are not compared.")
    elif not 1 / UNEQUAL < gain.faster < UNEQUAL:
        lines.append(
            f"- **The times were not equal**: *{EQUAL_TIME}* took {gain.faster:.2f} times as long as *{FEWER}*: "
            "whole epochs could not be equal (see the plan), or something else used the machine meanwhile."
        )
    best = max(statistics.mean(cell.values("test_accuracy")) for cell in cells.values())
    lines.append(f"\n**{verdict(loss, gain, best, learnt_above(labels))}**")
    return Markdown("\n".join(lines))


def verdict(loss: Effect, gain: Effect, best: float, needed: float) -> str:
    """What follows, in one sentence or two. loss: against all tokens for as many epochs; gain: for as much time.

    best: the best arm's test accuracy in percent. needed: that below which it may have learnt nothing.
    """
    if best <= needed:
        return (
            f"Not decided, for too little was learnt: {best:.1f} % at best, where more than {needed:.1f} % would show "
            "that it is not always the same answer. Train longer, on more images, or with another learning rate."
        )
    if math.isnan(gain.t_low):
        return "Not decided: one seed has no interval."
    if not gain.spread:
        return f"Not decided: {len(gain.seeds)} seeds that differ equally have no interval; more may scatter."
    if gain.t_high < 0:
        return "It does not pay: the same time with all tokens gives more."
    if gain.t_low > 0 and loss.spread and loss.t_low > NO_LOSS:
        return "It pays: as good as all tokens, and better than what they reach in the same time."
    if gain.t_low > 0:
        return (
            "It pays where time is short: better than all tokens in the same time; that nothing is lost against all "
            "epochs is not shown."
        )
    return f"Not decided: against equal time the interval is ±{(gain.t_high - gain.t_low) / 2:.1f} points." + _more(
        gain
    )


def _more(gain: Effect) -> str:
    """What more seeds would give, if they scatter like those that there are."""
    sd, seeds = statistics.stdev(gain.differences), len(gain.seeds)
    widths = [f"±{half_width(sd, more):.1f} with {more}" for more in MORE_SEEDS if more > seeds][:2]
    return f" If more seeds scatter like these {seeds}, it is {' and '.join(widths)}." if widths else ""


def _seconds(cell: Cell) -> float:
    return statistics.median(cell.values("train_seconds"))
