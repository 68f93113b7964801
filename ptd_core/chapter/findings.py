"""What was found, in sentences whose numbers and verdicts come from the records."""

import math
import statistics
from collections.abc import Callable

from ptd_core.chapter.answers import Answer
from ptd_core.errors import SweepError, did_you_mean
from ptd_core.records.effects import Effect, in_words


def finding(one: Answer, sentences: str) -> str:
    """Sentences with their numbers.

    In them {arm-control} is the difference of two arms in test accuracy, {arm-control:gap} in another of RESULTS, and
    {plain-one-other-both} the interaction of four; each becomes its mean, its interval and what can be said of it.
    {arm} is an arm's own mean, {arm:sd} the standard deviation of its test accuracy over seeds. Of {arm-control}, too,
    `size` leaves out what can be said of it, `range` is from the least to the greatest difference, `saving` how many
    times the arm's operations the control has, `clock` its seconds of training. Raises SweepError for a name that is no
    arm of the question, or no result.
    """
    return sentences.format_map(_Numbers(one))


RESULTS = {"test_accuracy": "%", "test_accuracy_raw": "%", "clean_train_accuracy": "%", "gap": "points"}
OF_PAIRS: dict[str, Callable[[Effect], str]] = {
    "size": lambda effect: in_words(effect, INTERVAL),
    "range": lambda effect: f"{min(effect.differences):+.2f} to {max(effect.differences):+.2f} points",
    "saving": lambda effect: _times(effect.predicted),
    "clock": lambda effect: _times(effect.faster),
}
SD = "sd"
INTERVAL = "95 % interval "
_NOT_RECORDED = "(not recorded yet)"


class _Numbers(dict):
    """What `str.format_map` asks by name."""

    def __init__(self, one: Answer):
        self.one = one

    def __missing__(self, names: str) -> "_Number":
        return _Number(self.one, names.split("-"))


class _Number:
    def __init__(self, one: Answer, arms: list[str]):
        known = tuple(one.recipes)
        if unknown := [arm for arm in arms if arm not in known]:
            hint = did_you_mean(unknown[0], known) or f"they are {', '.join(known)}"
            raise SweepError(f"{one.question} has no arm {unknown[0]!r}; {hint}")
        if len(arms) not in (1, 2, 4):
            raise SweepError(f"{'-'.join(arms)}: name one arm, an arm and its control, or the four of an interaction")
        self.one, self.arms = one, arms

    def __format__(self, result: str) -> str:
        result = result or "test_accuracy"
        if result in OF_PAIRS and len(self.arms) == 2:
            effect = self.one.effect(*self.arms)
            return OF_PAIRS[result](effect) if effect else _NOT_RECORDED
        if result == SD and len(self.arms) == 1:
            accuracies = cell.values("test_accuracy") if (cell := self.one.cell(*self.arms)) else []
            return f"{statistics.stdev(accuracies):.2f} points" if len(accuracies) > 1 else _NOT_RECORDED
        if result not in RESULTS:
            known = f"{', '.join(RESULTS)}; of an arm {SD}; of an arm and its control {', '.join(OF_PAIRS)}"
            raise SweepError(f"{result}: is no result of a run; they are {known}")
        if len(self.arms) == 1:
            cell = self.one.cell(*self.arms)
            mean = cell and sum(cell.values(result)) / len(cell.runs)
            return f"{mean:.2f} {RESULTS[result]}" if cell else _NOT_RECORDED
        ask = self.one.effect if len(self.arms) == 2 else self.one.interaction
        return _said(ask(*self.arms, result), of_accuracy=len(self.arms) == 2 and result.startswith("test_accuracy"))


def _times(ratio: float) -> str:
    return _NOT_RECORDED if math.isnan(ratio) else f"{ratio:.2f}x"


def _said(effect: Effect | None, of_accuracy: bool) -> str:
    if effect is None:
        return _NOT_RECORDED
    if math.isnan(effect.t_low):
        return in_words(effect)
    if of_accuracy:
        verdict = effect.verdict
    else:  # more is not better
        verdict = "above zero" if effect.t_low > 0 else "below zero" if effect.t_high < 0 else "no difference seen"
    return f"{in_words(effect, INTERVAL)}, {verdict}"
