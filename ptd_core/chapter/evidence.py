"""What chapter 4 shows of a question: what is asked, how much of it was run, the differences, and whether it pays."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

from IPython.display import Markdown
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ptd_core.chapter import chances as power
from ptd_core.chapter import findings, recommending, timing
from ptd_core.chapter.answers import QUESTIONS, RECORDS, Answer, answer, asked, questions, together
from ptd_core.chapter.claims import ledger_table
from ptd_core.chapter.equal_accuracy import equal_table, equals
from ptd_core.chapter.judging import NOT_TESTED, arm_name
from ptd_core.chapter.looking_again import FEWER, Feedback, FewerTokens
from ptd_core.chapter.namespace import Names, given_values
from ptd_core.errors import RecipeError, SweepError
from ptd_core.evaluate.feedback import measure
from ptd_core.evaluation import feedback
from ptd_core.evaluation import table as table_of_evaluations
from ptd_core.parameters import explain
from ptd_core.paths import PROJECT_ROOT
from ptd_core.records.effects import Effect, effects_table
from ptd_core.records.folders import RunFolder
from ptd_core.views.comparison import comparison_figure, where_run
from ptd_core.views.effects import effects_figure
from ptd_core.views.evidence import Arm, pays_figure
from ptd_core.views.feedback import feedback_figure
from ptd_core.views.fewer_tokens import fewer_tokens_figure
from ptd_core.views.times import times_figure

__all__ = [
    "Again", "Feedback", "FewerTokens", "accuracies", "attention", "chances", "differences", "effects",
    "equal_accuracy", "fewer_tokens", "finding", "found", "ledger", "looked_again", "pays", "read_again",
    "recommended", "status", "times", "times_table", "together",
]  # fmt: skip


class Again(BaseModel):
    """The chapter's parameters: a question to run again, instead of showing what is published of it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    question: str = Field("", description="question to run again, a file's name in parameters/sweeps/evidence")
    data_dir: str = Field("data", description="where CIFAR-100 lies")
    out_dir: str = Field("", description="folder that receives runs/; empty: the project's own")
    workers: int = Field(1, description="runs at once, one thread each", ge=1, le=1024)
    changes: str = Field(
        "", description="by which its runs differ from the file: names and values, each joined by an equals sign"
    )

    @property
    def overrides(self) -> list[str]:
        return [f"data_dir={self.data_dir}", f"out_dir={self.out_dir}", *self.changes.split()]


def read_again(namespace: dict[str, Any], before: Names) -> Again:
    """The chapter's parameters from its cells.

    Raises RecipeError for unknown names and wrong values, SweepError for a question that is none and for changes that
    its runs cannot have.
    """
    try:
        found = Again.model_validate(given_values(namespace, before, Again.model_fields))
    except ValidationError as error:
        raise RecipeError(explain(error, "parameters", Again.model_fields)) from None
    if found.question and found.question not in questions():
        raise SweepError(f"question = {found.question!r}: must be one of {', '.join(questions())}, or empty")
    if found.question:
        answer(found.question, overrides=found.overrides)  # refuses changes that no run can have
    return found


def found(question: str, again: Again) -> Answer:
    """What is known of a question: of the runs made just now if it is run again, else of the published ones."""
    if question == again.question:
        return run_again(again)
    return answer(question)


def run_again(again: Again) -> Answer:
    """Run a question's sweep, or resume it, or show it if it is finished. Raises SweepError if a run fails."""
    command = [sys.executable, "-m", "ptd_core.sweep", str(QUESTIONS / f"{again.question}.yaml"), *again.overrides]
    command += ["--workers", str(again.workers)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")])}
    sweep = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, errors="replace"
    )
    with sweep:
        for line in sweep.stdout:
            print(line, end="")
    if sweep.returncode:
        raise SweepError(f"{again.question}: its sweep ended with status {sweep.returncode}; what it printed says why")
    return answer(again.question, RunFolder(again.question, again.out_dir).path, again.overrides)


def status(one: Answer) -> Markdown:
    """What is asked, and which of its runs are recorded."""
    return Markdown(f"```text\n{asked(one.question)}\n```\n{one.recorded.capitalize()} are recorded.")


def accuracies(one: Answer) -> Figure | Markdown:
    """Every run's accuracy as a point, or a sentence where there is none."""
    cells = [replace(cell, name=arm_name(cell.name)) for cell in one.cells]
    return comparison_figure(cells) if cells else _nothing(one)


def differences(one: Answer) -> Figure | Markdown:
    """Each arm minus its controls, seed by seed."""
    return effects_figure(one.effects, one.cells, arm_name) if one.effects else _nothing(one)


def effects(one: Answer) -> Markdown:
    """The same as a table."""
    return Markdown(effects_table(_short(one.effects), timed=False)) if one.effects else _nothing(one)


def times(one: Answer) -> Figure | Markdown:
    """How much faster each arm trained than its controls, by the clock; of runs that had a machine to themselves."""
    return times_figure(found, where_run(one.cells)) if (found := timing.times(one)) else _nothing(one)


def times_table(one: Answer) -> Markdown:
    """The same as a table."""
    return Markdown(timing.times_table(found)) if (found := timing.times(one)) else _nothing(one)


def recommended(one: Answer) -> Markdown:
    """The arm that the rule of `recommending` chooses, and why not the others."""
    found = recommending.candidates(one)
    return Markdown(recommending.recommended(found)) if found else _nothing(one)


def equal_accuracy(one: Answer, *others: Answer) -> Markdown:
    """What each arm saves where all tokens reach as much as it does, in the epochs of this question and of others."""
    return Markdown(equal_table(found)) if (found := equals(one, *others)) else _nothing(one)


def chances(after: Answer, *before: Answer) -> Markdown:
    """How likely an arm passes with the seeds of `after`, by how differences vary in the questions before."""
    found = power.chances(after, *before)
    return Markdown(found) if found else _nothing(before[0])


def finding(one: Answer, sentences: str) -> Markdown:
    """What was found, in sentences as `findings.finding` takes them."""
    return Markdown(findings.finding(one, sentences)) if one.effects else _nothing(one)


def pays(one: Answer, *others: Answer) -> Figure | Markdown:
    """Accuracy of all arms against the operations of their whole training, those of all tokens being 1; all tokens in
    fewer epochs are those of this question and of others."""
    whole = one.cell(recommending.WHOLE)
    if whole is None:
        return _nothing(one)
    line = recommending.all_tokens(one, *others)
    shown = {name: cell for name in one.recipes if (cell := one.cell(name))} | line
    cost = whole.runs[0].training_flops
    arms = [
        Arm(name, cell.runs[0].training_flops / cost, cell.values("test_accuracy"), all_tokens=name in line)
        for name, cell in shown.items()
    ]
    return pays_figure(arms, where_run([*shown.values()]))


def attention(one: Answer, again: Again) -> Figure | Markdown:
    """How class attention changed from epoch to epoch: in the runs just made, if feedback is run again."""
    if one.question == again.question and not one.missing:
        folders = [RunFolder(run.name, again.out_dir).path for run in one.plan.runs]
        return feedback_figure(_by_arm(measure(folders, [f"data_dir={again.data_dir}"])))
    published = (RECORDS / one.question / feedback.FILE).exists()
    return feedback_figure(_by_arm(feedback.read(RECORDS / one.question))) if published else _nothing(one)


def fewer_tokens() -> Figure | Markdown:
    """Accuracy of trained models on fewer tokens than they are given."""
    if not (FEWER / table_of_evaluations.FILE).exists():
        return Markdown("*Nothing is recorded yet of models of this size on fewer tokens.*")
    return fewer_tokens_figure(_by_arm(table_of_evaluations.read(FEWER)))


def looked_again(claim: Feedback | FewerTokens) -> Markdown:
    """What was found by looking again at published models, in a sentence with its sizes."""
    verdict, text = claim.found()
    return Markdown(f"- Of the published models: {text}." if verdict != NOT_TESTED else f"*{text}.*")


def ledger() -> Markdown:
    """Every claim of the original, what its logs show, what was found here, and the verdict."""
    return Markdown(ledger_table())


def _short(effects: list[Effect]) -> list[Effect]:
    """With arms' names in place of cells'."""
    return [replace(one, arm=arm_name(one.arm), control=arm_name(one.control)) for one in effects]


def _by_arm(rows: list) -> list:
    """Rows of measures with arms' names in place of cells'."""
    return [replace(row, cell=arm_name(row.cell)) for row in rows]


def _nothing(one: Answer) -> Markdown:
    return Markdown(f"*Too little is recorded of {one.question} yet to show this.*")
