"""The questions of parameters/sweeps/evidence, and what the records say to them. Nothing here trains."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ptd_core.errors import SweepError, did_you_mean
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.records.cells import Cell, group
from ptd_core.records.effects import Effect, compared, effect, interaction, paired
from ptd_core.records.finished_runs import RUNS, FinishedRun, read_runs
from ptd_core.sweep.plan import Plan, read_plan

QUESTIONS = PROJECT_ROOT / "parameters" / "sweeps" / "evidence"
RECORDS = PROJECT_ROOT / "figures" / "evidence"
BASE = "evidence_"  # and an arm's name: a cell of these sweeps


@dataclass(frozen=True)
class Answer:
    """A question: the runs that it asks for, and those that are finished."""

    question: str
    plan: Plan
    runs: list[FinishedRun]

    @property
    def missing(self) -> list[str]:
        """Runs that the question asks for and that no record has."""
        there = {run.run for run in self.runs}
        return [run.name for run in self.plan.runs if run.name not in there]

    @property
    def recorded(self) -> str:
        """How many of its runs are finished, in words: "17 of 45 runs", "all 45 runs"."""
        runs, missing = len(self.plan.runs), len(self.missing)
        return f"{runs - missing} of {runs} runs" if missing else f"all {runs} runs"

    @property
    def seeds(self) -> set[int]:
        """Those that it asks for."""
        return {run.recipe.seed for run in self.plan.runs}

    @cached_property
    def cells(self) -> list[Cell]:
        return group(self.runs)

    @cached_property
    def effects(self) -> list[Effect]:
        """Each arm against its controls, where both have runs with one seed."""
        return compared(self.plan.pairs, self.cells)

    def cell_name(self, arm: str) -> str:
        return BASE + arm

    def cell(self, arm: str) -> Cell | None:
        """An arm's runs of the precision that most of them have; None if there is none."""
        found = [cell for cell in self.cells if cell.runs[0].cell == self.cell_name(arm)]
        return max(found, key=lambda cell: len(cell.runs), default=None)

    def effect(self, arm: str, control: str, result: str = "test_accuracy") -> Effect | None:
        """`records.effects.effect` of two arms, None where nothing is paired."""
        ours, theirs = self.cell(arm), self.cell(control)
        return effect(ours, theirs, result) if ours and theirs and paired(ours, theirs) else None

    def interaction(self, plain: str, one: str, other: str, both: str, result: str = "test_accuracy") -> Effect | None:
        """`records.effects.interaction` of four arms, None unless all have the same seeds."""
        cells = [self.cell(arm) for arm in (plain, one, other, both)]
        if not all(cells) or len({tuple(run.seed for run in cell.runs) for cell in cells}) > 1:
            return None
        return interaction(*cells, result)

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The recipe of each arm, of its first seed."""
        found: dict[str, Recipe] = {}
        for run in self.plan.runs:
            found.setdefault(run.cell.removeprefix(BASE), run.recipe)
        return found


def questions() -> list[str]:
    """The names of all questions, those that others build on first."""
    order = (
        "control", "own_effect", "direction", "steeper", "confirm", "confirm_in_block_1",
        "speed", "scores", "scores_five_seeds", "place", "curriculum",
    )  # fmt: skip
    names = {path.stem for path in QUESTIONS.glob("*.yaml")}
    return [*(name for name in order if name in names), *sorted(names - set(order))]


def answer(question: str, records: Path | None = None, overrides: list[str] = ()) -> Answer:
    """What the records say to a question; without any runs if there are none.

    records: the folder with its runs.csv, by default the published one. overrides: name=value texts by which its runs
    differ from the sweep file. Raises OutputError for a damaged table, and SweepError for a question that is none.
    """
    if question not in questions():
        hint = did_you_mean(question, tuple(questions())) or f"they are {', '.join(questions())}"
        raise SweepError(f"there is no question {question!r}; {hint}")
    plan = read_plan(QUESTIONS / f"{question}.yaml", overrides, to_train=False)
    folder = records or RECORDS / question
    return Answer(question, plan, read_runs(folder) if (folder / RUNS).exists() else [])


def together(one: Answer, *others: Answer) -> Answer:
    """An answer, with what the records of other questions have of the same arms, with other seeds."""
    runs = {run.run: run for run in one.runs}
    for run in (run for other in others for run in other.runs):
        recipe = one.recipes.get(run.cell.removeprefix(BASE))
        if recipe and recipe.replace(seed=run.seed).fingerprint == run.fingerprint:
            runs.setdefault(run.run, run)
    return replace(one, runs=list(runs.values()))


def asked(question: str) -> str:
    """The comment that opens a question's file: what is asked, and how."""
    lines = (QUESTIONS / f"{question}.yaml").read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(comment)
