"""Which way of training is recommended: a rule that was fixed before its runs were made, applied to their records."""

from dataclasses import dataclass

from ptd_core.chapter.answers import Answer
from ptd_core.recipe import Recipe
from ptd_core.records.effects import NO_LOSS, Effect, in_words

SEEDS = 5  # with fewer an interval is too wide, or narrow by luck
WHOLE = "all_tokens"  # the arm with all tokens in all epochs


@dataclass(frozen=True)
class Candidate:
    """An arm that saves operations. loss: it against all tokens in as many epochs; gain: in as much time."""

    arm: str
    loss: Effect
    gain: Effect

    @property
    def decided(self) -> bool:
        """Whether enough seeds are recorded."""
        return min(len(self.loss.seeds), len(self.gain.seeds)) >= SEEDS

    @property
    def no_loss(self) -> bool:
        return self.decided and self.loss.t_low > NO_LOSS

    @property
    def beats_equal_time(self) -> bool:
        return self.decided and self.gain.t_low > 0

    @property
    def passes(self) -> bool:
        return self.no_loss and self.beats_equal_time


def candidates(one: Answer) -> list[Candidate]:
    """The arms of a question that have both controls and save operations, those that save most first."""
    recipes, found = one.recipes, []
    for arm in recipes:
        controls = [control for name, control in one.plan.pairs if name == one.cell_name(arm)]
        shorter = [name for name in recipes if one.cell_name(name) in controls and _in_fewer_epochs(recipes, name)]
        effects = [one.effect(arm, control) for control in (WHOLE, *shorter[:1])]
        if shorter and all(effects) and effects[0].predicted > 1:
            found.append(Candidate(arm, *effects))
    return sorted(found, key=lambda candidate: -candidate.loss.predicted)


def _in_fewer_epochs(recipes: dict[str, Recipe], arm: str) -> bool:
    """Whether an arm is all tokens again, but for its number of epochs."""
    whole, recipe = recipes[WHOLE], recipes[arm]
    return recipe.epochs < whole.epochs and recipe.replace(epochs=whole.epochs, run=whole.run) == whole


def recommended(found: list[Candidate]) -> str:
    """Markdown: what speaks for each arm and against it, and the one that the rule chooses, or that it chooses none."""
    lines = [
        "| arm | faster, by operations | against all tokens | no loss | in as much time | better | passes |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        no_loss, better, passes = (_yes(one, value) for value in (one.no_loss, one.beats_equal_time, one.passes))
        sizes = f"{one.loss.predicted:.2f}x", in_words(one.loss), in_words(one.gain)
        cells = [one.arm, *sizes[:2], no_loss, sizes[2], better, passes]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"**{_chosen(found)}**"])


def _yes(one: Candidate, value: bool) -> str:
    return ("yes" if value else "no") if one.decided else f"{SEEDS} seeds decide"


def _chosen(found: list[Candidate]) -> str:
    waiting = [one.arm for one in found if not one.decided]
    passing = [one for one in found if one.passes]
    if waiting:
        return f"Not decided: fewer than {SEEDS} seeds are recorded of {', '.join(waiting)}."
    if not passing:
        return f"None of {len(found)} arms passes: at this size no way of dropping tokens can be recommended."
    best = passing[0]
    return (
        f"{len(passing)} of {len(found)} arms pass; the one that saves most is {best.arm}, "
        f"{best.loss.predicted:.2f}x by operations."
    )
