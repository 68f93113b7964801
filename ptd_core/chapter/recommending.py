"""Which way of training is recommended: one rule, applied to the records of all arms of a question."""

import math
import statistics
from dataclasses import dataclass

from ptd_core.chapter.answers import Answer
from ptd_core.recipe import Recipe
from ptd_core.records.cells import Cell
from ptd_core.records.effects import NO_LOSS, Effect, in_words
from ptd_core.records.markdown import markdown_table
from ptd_core.records.statistics import half_width

SEEDS = 5  # with fewer an interval is too wide, or narrow by luck
LAST_SEED = 19  # of all questions
WHOLE = "all_tokens"  # the arm with all tokens in all epochs


@dataclass(frozen=True)
class Candidate:
    """An arm and what speaks for it. loss: it against all tokens in as many epochs; gain: in those that its operations
    would pay for. None where nothing is recorded. asked: seeds that the question asks for; whoever stops as soon as an
    arm passes finds one that passes."""

    arm: str
    loss: Effect | None
    gain: Effect | None
    asked: int = SEEDS

    @property
    def needed(self) -> int:
        """Seeds that decide."""
        return max(SEEDS, self.asked)

    @property
    def saving(self) -> float:
        """Operations of all tokens over the arm's; NaN if they are not recorded."""
        return self.loss.predicted if self.loss else math.nan

    @property
    def decided(self) -> bool:
        """Whether enough seeds are recorded, and what it saves."""
        seeds = [len(one.seeds) if one else 0 for one in (self.loss, self.gain)]
        return min(seeds) >= self.needed and not math.isnan(self.saving)

    @property
    def no_loss(self) -> bool:
        return self.decided and self.loss.t_low > NO_LOSS

    @property
    def loss_shown(self) -> bool:
        """Whether it loses more than "no loss" allows. An arm may show neither: that is not known yet."""
        return self.decided and self.loss.t_high < NO_LOSS

    @property
    def some_loss(self) -> bool:
        """Whether it loses something. "No loss" allows a little."""
        return self.decided and self.loss.t_high < 0

    @property
    def beats_equal_time(self) -> bool:
        return self.decided and self.gain.t_low > 0

    @property
    def passes(self) -> bool:
        return self.no_loss and self.beats_equal_time

    @property
    def fresh(self) -> int:
        """How many seeds had no part in this."""
        return LAST_SEED - max(self.loss.seeds)

    @property
    def hopeful(self) -> bool:
        """Whether it beats equal time, and would lose nothing if all fresh seeds gave the same mean and spread."""
        if not self.beats_equal_time or self.fresh < SEEDS:
            return False
        return self.loss.mean - half_width(statistics.stdev(self.loss.differences), self.fresh) > NO_LOSS


def candidates(one: Answer) -> list[Candidate]:
    """The arms of a question that have both controls, those that save most operations first; none that saves nothing.

    Arms that lack records are among them, at the end. Empty if nothing is recorded of any.
    """
    recipes, found = one.recipes, []
    for arm in recipes:
        controls = [control for name, control in one.plan.pairs if name == one.cell_name(arm)]
        shorter = [name for name in recipes if one.cell_name(name) in controls and in_fewer_epochs(recipes, name)]
        if shorter:
            found.append(Candidate(arm, one.effect(arm, WHOLE), one.effect(arm, shorter[0]), len(one.seeds)))
    if not any(candidate.loss or candidate.gain for candidate in found):
        return []
    found = [candidate for candidate in found if not candidate.saving <= 1]  # NaN is none that saves nothing
    return sorted(found, key=lambda candidate: -candidate.saving if candidate.saving > 1 else 0.0)


def in_fewer_epochs(recipes: dict[str, Recipe], arm: str) -> bool:
    """Whether an arm is all tokens again, but for its number of epochs."""
    whole, recipe = recipes[WHOLE], recipes[arm]
    return recipe.epochs < whole.epochs and recipe.replace(epochs=whole.epochs, run=whole.run) == whole


def all_tokens(one: Answer, *others: Answer) -> dict[str, Cell]:
    """The cells of all tokens, in all epochs and in fewer, by arm: of a question, and of others what it lacks."""
    line: dict[str, Cell] = {}
    for asked in (one, *others):
        names = [arm for arm in asked.recipes if arm == WHOLE or in_fewer_epochs(asked.recipes, arm)]
        line = {arm: cell for arm in names if (cell := asked.cell(arm))} | line
    return line


def recommended(found: list[Candidate]) -> str:
    """Markdown: what speaks for each arm and against it, and the one that the rule chooses, or that it chooses none."""
    header = ["arm", "faster, by operations", "against all tokens", "no loss", "against fewer epochs",
              "control's operations / arm's", "better", "passes"]  # fmt: skip
    rows = []
    for one in found:
        no_loss = _yes(one, one.no_loss, "refuted" if one.loss_shown else "not shown" + "; a loss" * one.some_loss)
        better, passes = _yes(one, one.beats_equal_time), _yes(one, one.passes)
        saving = "-" if math.isnan(one.saving) else f"{one.saving:.2f}x"
        share = f"{100 * one.gain.predicted:.0f} %" if one.gain and not math.isnan(one.gain.predicted) else "-"
        rows.append([one.arm, saving, _size(one.loss), no_loss, _size(one.gain), share, better, passes])
    return f"{markdown_table(header, rows)}\n\n**{_chosen(found)}**"


def _size(effect: Effect | None) -> str:
    return in_words(effect) if effect else "-"


def _yes(one: Candidate, value: bool, otherwise: str = "no") -> str:
    return ("yes" if value else otherwise) if one.decided else f"{one.needed} seeds decide"


def _chosen(found: list[Candidate]) -> str:
    waiting = [one.arm for one in found if not one.decided]
    passing = [one for one in found if one.passes]
    hopeful = [one for one in found if one.hopeful]
    if waiting:
        return f"Not decided: fewer than {found[0].needed} seeds are recorded of {', '.join(waiting)}, or of a control."
    said = f"None of {len(found)} arms passes: {_why_none(found)}."
    if len(found) == 1:
        said = f"{_outcome(found[0])} ({found[0].saving:.2f}x by operations, {found[0].needed} seeds)."
    elif passing:
        said = f"{len(passing)} of {len(found)} arms pass; the one that saves most is {_saves(passing[0])}."
    if hopeful:
        best = hopeful[0]
        said += (
            f" Worth confirming on other seeds: {_saves(best)}, the one that saves most of those that would pass if "
            f"{best.fresh} other seeds gave the same mean and spread."
        )
    return said


def _why_none(found: list[Candidate]) -> str:
    losing = sum(one.loss_shown for one in found)
    slow = sum(one.no_loss and not one.beats_equal_time for one in found)
    unknown = [one for one in found if not one.loss_shown and not one.no_loss]
    some = sum(one.some_loss for one in unknown)
    lose = f"lose more than {-NO_LOSS} points"
    but = f"; {some} of these lose{'s' * (some == 1)} something" * bool(some)
    parts = [
        losing and f"{losing} {lose}",
        unknown and f"of {len(unknown)} it is not known{'' if losing else f' whether they {lose}'}{but}",
        slow and f"{slow} with no loss would not beat all tokens for as many operations",
    ]
    return ", ".join(filter(None, parts))


def _outcome(one: Candidate) -> str:
    if one.passes:
        return f"{one.arm} passes"
    if one.loss_shown:
        return f"{one.arm} loses more than {-NO_LOSS} points"
    if not one.no_loss:
        return f"{one.arm} is undecided, its interval contains {NO_LOSS} points"
    return f"{one.arm} loses nothing, and does not beat all tokens for as many operations"


def _saves(one: Candidate) -> str:
    return f"{one.arm}, {one.saving:.2f}x by operations"
