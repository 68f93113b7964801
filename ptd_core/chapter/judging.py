"""By what a claim is judged: a rule that turns records into a verdict and the sentence beside it.

Verdicts: holds, holds in part, not supported (no difference seen), refuted (the opposite was seen), measured (a
question without a claim), not tested (and why). Differences are those of `records.effects`, paired by seed; a verdict
follows from Student's 95 % interval of their mean.
"""

import functools
import json
import math
import statistics
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ptd_core.chapter.answers import BASE, QUESTIONS, Answer, answer
from ptd_core.evaluation import table
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.records.cells import group
from ptd_core.records.effects import Effect, faster_by_seed, in_words
from ptd_core.records.finished_runs import read_runs
from ptd_core.records.statistics import t_interval

_SMALL_CELLS = PROJECT_ROOT / "figures" / "small_cells"

NOT_TESTED, MEASURED = "not tested", "measured"
VERDICTS = ("holds", "holds in part", "not supported", "refuted", MEASURED, NOT_TESTED)


class Found(NamedTuple):
    """verdict: one of VERDICTS. text: with sizes, intervals and numbers of seeds."""

    verdict: str
    text: str


class Test(Protocol):
    """What decides a claim."""

    def found(self) -> Found: ...


@dataclass(frozen=True)
class Untested:
    """Nothing here decides it, and why."""

    why: str

    def found(self) -> Found:
        return Found(NOT_TESTED, self.why)


@dataclass(frozen=True)
class Settled:
    """Decided by something other than a sweep; numbers in braces are filled in from `figures`."""

    verdict: str
    text: str

    def found(self) -> Found:
        return Found(self.verdict, self.text.format_map(figures()))


@dataclass(frozen=True)
class Difference:
    """An arm of a question minus another. claimed: +1 or -1, the sign that the original says it has. size: the points
    that it says, at its own size. also: what other records say, its numbers from `figures`; no verdict follows from
    these two."""

    question: str
    arm: str
    control: str
    claimed: int
    result: str = "test_accuracy"
    size: float | None = None
    also: str = ""

    def found(self) -> Found:
        effect = answered(self.question).effect(self.arm, self.control, self.result)
        what = f"{self.arm} against {self.control}" + (f", {self.result}" if self.result != "test_accuracy" else "")
        decided, text = _judged(effect, self.claimed, self.question, what)
        return Found(decided, "; ".join(filter(None, [text, self._size(effect), self.also.format_map(figures())])))

    def _size(self, effect: Effect | None) -> str:
        """The original's size, if it says one. Whether it lies within an interval of smaller models says nothing."""
        if self.size is None or effect is None or math.isnan(effect.t_low):
            return ""
        return f"the original's, at its size: {self.size:+.2f}"


@dataclass(frozen=True)
class Interaction:
    """What token drop (one, both) changes in the presence of something (other, both), less what it changes alone."""

    question: str
    plain: str
    one: str
    other: str
    both: str
    claimed: int

    def found(self) -> Found:
        whole = answered(self.question).interaction(self.plain, self.one, self.other, self.both)
        return _judged(whole, self.claimed, self.question, "interaction")


@dataclass(frozen=True)
class Faster:
    """Whether an arm's training takes less time than another's on the device that ran both: by Student's interval of
    the logarithms of their ratios, seed by seed."""

    question: str
    arm: str
    control: str

    def found(self) -> Found:
        one = answered(self.question)
        effect = one.effect(self.arm, self.control)
        if effect is None or len(effect.seeds) < 2:
            return _no_records(self.question)
        ours = one.cell(self.arm)
        ratios = faster_by_seed(ours, one.cell(self.control))
        if not ratios:
            return Found(NOT_TESTED, "its runs are of several devices, whose seconds are not compared")
        low, high = t_interval([math.log(ratio) for ratio in ratios])
        return Found(
            verdict(low, high),
            f"{math.exp((low + high) / 2):.3f}x ({math.exp(low):.3f} to {math.exp(high):.3f}, n = {len(ratios)}) on "
            f"{ours.runs[0].device}; operations predict {effect.predicted:.3f}x",
        )


@dataclass(frozen=True)
class Measured:
    """A question that the original leaves open: of how many of its differences the interval lies clear of zero, or the
    sizes of those that are named, (arm, control). what: begins such a list."""

    question: str
    pairs: tuple[tuple[str, str], ...] = ()
    what: str = ""

    def found(self) -> Found:
        if self.pairs:
            return self._sizes()
        question = answered(self.question)
        effects = [one for one in question.effects if not math.isnan(one.t_low)]
        if not effects:
            return _no_records(self.question)
        told = [one for one in effects if one.t_low > 0 or one.t_high < 0]
        largest = max(effects, key=lambda one: abs(one.mean))
        exclude = "excludes" if len(told) == 1 else "exclude"
        so_far = f"so far, {question.recorded}: " if question.missing else ""
        return Found(
            MEASURED,
            f"{so_far}in {self.question} {len(told)} of {len(effects)} intervals {exclude} zero, where "
            f"by luck about one in twenty would; the largest difference: "
            f"{arm_name(largest.arm)} against {arm_name(largest.control)} {in_words(largest)}",
        )

    def _sizes(self) -> Found:
        effects = [(pair, answered(self.question).effect(*pair)) for pair in self.pairs]
        said = [f"{arm} against {control} {in_words(one)}" for (arm, control), one in effects if one]
        return Found(MEASURED, self.what + "; ".join(said)) if said else _no_records(self.question)


def arm_name(cell: str) -> str:
    """A cell's name without what all cells of the evidence begin with."""
    return cell.removeprefix(BASE)


@functools.cache
def answered(question: str) -> Answer:
    """`answers.answer` of the published records, read once."""
    return answer(question)


def _judged(effect: Effect | None, claimed: int, question: str, what: str) -> Found:
    if effect is None:
        return _no_records(question)
    said = f"{what}: {in_words(effect)}"
    if not effect.spread:
        return Found(NOT_TESTED, said)
    decided = verdict(*sorted((claimed * effect.t_low, claimed * effect.t_high)))
    return Found(decided, f"{said}, no difference seen" if decided == "not supported" else said)


def verdict(low: float, high: float, limit: float = 0.0) -> str:
    """Of a claim that something is larger than `limit`, by its interval."""
    return "holds" if low > limit else "refuted" if high < limit else "not supported"


def _no_records(question: str) -> Found:
    return Found(
        NOT_TESTED, f"no records yet; {(QUESTIONS / question).with_suffix('.yaml').relative_to(PROJECT_ROOT)} asks"
    )


@functools.cache
def figures() -> dict[str, float | str]:
    """Numbers of published records that are no sweep's, and of operations, by the names that `Settled` uses."""
    published = Recipe.from_yaml(PROJECT_ROOT / "parameters" / "ptd_aug.yaml")
    dropped, whole = published.training_cost(100)
    steps = {name: _step_at_35(name) for name in ("AMD_EPYC_2_threads", "AMD_EPYC_without_bf16_2_threads")}
    rows = [row for row in table.read(PROJECT_ROOT / "figures" / "object_kept") if row.images == 1000]

    def mean(column: str, score: str, block: str, kept: int) -> float:
        chosen = [row for row in rows if (row.score, row.blocks, row.kept) == (score, block, kept)]
        return statistics.mean(getattr(row, column) for row in chosen)

    small = {cell.name: {run.seed: run.test_accuracy for run in cell.runs} for cell in group(read_runs(_SMALL_CELLS))}

    def seed_by_seed(arm: str, control: str) -> str:
        return ", ".join(f"{small[arm][seed] - small[control][seed]:+.2f}" for seed in sorted(small[arm]))

    return {
        "plain_on_training_images": _mean_of("own_effect", "plain", "clean_train_accuracy"),
        "mix_on_training_images": _mean_of("own_effect", "mix", "clean_train_accuracy"),
        "small_plain": seed_by_seed("ptd_small", "baseline_small"),
        "small_mix": seed_by_seed("ptd_aug_small", "baseline_aug_small"),
        "published_speedup": whole / dropped,
        "cpu_bf16": steps["AMD_EPYC_2_threads"]["speedup"],
        "cpu_fp32": steps["AMD_EPYC_without_bf16_2_threads"]["speedup"],
        "step_predicted": steps["AMD_EPYC_2_threads"]["predicted"],
        "half": mean("accuracy", "class_attention", "0", 32),
        "whole": mean("accuracy", "class_attention", "0", 64),
        "attention": 100 * mean("object_kept", "class_attention", "0", 32),
        "late": 100 * mean("object_kept", "class_attention", "3", 32),
        "centre": 100 * mean("object_kept", "centre", "0", 32),
    }


def _mean_of(question: str, arm: str, result: str) -> float:
    return statistics.mean(answer(question).cell(arm).values(result))


def _step_at_35(machine: str) -> dict:
    report = json.loads((PROJECT_ROOT / "figures" / "bench" / machine / "bench.json").read_text(encoding="utf-8"))
    return next(row for row in report["sections"]["steps"] if (row["block"], row["ratio"]) == (0, 0.35))
