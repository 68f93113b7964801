"""From a sweep file to the runs that it stands for, all of them checked before the first one starts.

    base: ../ptd_small.yaml        # a parameter file, or a list of them; relative to the sweep file
    fixed: {epochs: 5}             # parameters that replace the base's in every run
    factors:                       # every combination of these values is one cell
      drop_final: [0.2, 0.35, 0.5]
      drop_block: [0, 2]
    arms:                          # or named sets of parameters, which differ from one another in several
      all_tokens: {drop_final: 0.0}
      steps: {drop_shape: steps, drop_stages: .5/.75/1 at 45/40/15}
    controls:                      # what an arm is compared with, seed by seed
      steps: [all_tokens]
    seeds: [0, 1, 2]               # every cell is run once per seed

In `weights`, {seed} stands for the run's seed, and runs/ is where this sweep's own runs are: what earlier runs learned
can be what these begin with, seed by seed.

A run is named after its base, its arm, its values of the factors and its seed:
ptd_small_drop_final0.2_drop_block0_seed1. Arms of one name and content in two sweep files over one base are one run.
What no name can have is a hyphen there: a drop_blocks of "0, 2" is drop_blocks0-2. Names that would be too long for a
folder are cut, and end in a hash of the whole.
"""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptd_core.errors import SweepError
from ptd_core.recipe import Recipe
from ptd_core.records.checkpoint import Checkpoints
from ptd_core.records.folders import LONGEST, NAME, RunFolder, refuse_half_trained
from ptd_core.records.run_record import FILE
from ptd_core.sweep.file import read_file
from ptd_core.vits.weights import find

_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")  # what NAME does not allow


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep. cell: its name without the seed. levels: its value of every factor."""

    cell: str
    levels: dict[str, Any]
    recipe: Recipe

    @property
    def name(self) -> str:
        return self.recipe.run_name


@dataclass(frozen=True)
class Plan:
    """A sweep's runs, in the order in which they are started: seed by seed, so that early results cover every cell.

    pairs: cells to compare, each with its control.
    """

    name: str
    runs: list[PlannedRun]
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> RunFolder:
        """The folder that receives the sweep's tables and its picture."""
        return RunFolder(self.name, self.runs[0].recipe.out_dir)

    @property
    def device(self) -> str:
        return self.runs[0].recipe.device


def read_plan(path: str | Path, overrides: list[str] = (), to_train: bool = True) -> Plan:
    """The runs of a sweep file; `overrides` are name=value texts that replace its fixed parameters.

    to_train: False to look up what is recorded of them; files of weights to begin with need not be here then.

    Raises SweepError, or RecipeError for a run whose parameters are not allowed, which names the run.
    """
    path = Path(path)
    name = _fitting(path.stem)
    if not NAME.fullmatch(name):
        raise SweepError(f"{path}: a sweep is named after its file, which must match {NAME.pattern}; got {path.stem!r}")
    content = read_file(path, overrides)
    seed_text = max((f"_seed{seed}" for seed in content.seeds), key=len)
    bases = [content.base] if isinstance(content.base, str) else content.base
    runs, cells = [], {}
    for seed, base, arm in itertools.product(content.seeds, bases, content.arms or [""]):
        for values in itertools.product(*content.factors.values()):
            levels = dict(zip(content.factors, values))
            fixed = content.fixed | content.arms.get(arm, {}) | ({} if to_train else {"weights": ""})
            runs.append(_planned(path, base, arm, fixed, overrides, levels, seed, len(seed_text)))
            cells[base, arm, repr(levels)] = runs[-1].cell
    _refuse_duplicates(path, runs, by_settings=to_train)
    for place in ("out_dir", "device"):
        found = sorted({getattr(run.recipe, place) for run in runs})
        if len(found) > 1:
            raise SweepError(
                f"{path}: its base files differ in {place} ({', '.join(map(repr, found))}); set it in fixed"
            )
    pairs = {
        (cell, cells[base, control, levels]): None
        for (base, arm, levels), cell in cells.items()
        for control in content.controls.get(arm, [])
    }
    plan = Plan(name, runs, tuple(pairs))
    if re.fullmatch(r"cuda:\d+", plan.device):
        raise SweepError(f"{path}: device = {plan.device!r}: a sweep gives every run a device of its own; use 'cuda'")
    folder = plan.folder.path
    of_a_run = (folder / FILE).exists() or Checkpoints(folder).present
    if of_a_run or plan.name in {run.name for run in runs}:
        raise SweepError(f"{path}: {folder} is the folder of a run; give the sweep file another name")
    return plan


def _planned(
    path: Path,
    base: str,
    arm: str,
    fixed: dict[str, Any],
    overrides: list[str],
    levels: dict[str, Any],
    seed: int,
    reserved: int,
) -> PlannedRun:
    """Values in order of precedence: base, then fixed and the arm's, then the command line, then factors and seed.

    reserved: characters that the longest seed takes in a run's name, so that all runs of a cell are cut alike.
    """
    base_path = path.parent / base
    base_recipe = Recipe.from_yaml(base_path)
    values = base_recipe.model_dump() | fixed | Recipe.values_of(overrides) | {**levels, "seed": seed, "run": ""}
    values["weights"] = _weights(str(values["weights"]), seed, values["out_dir"])
    recipe = Recipe.from_values(
        values, source=f"{path}: {base} with {arm and f'arm {arm}, '}{_listed({**levels, 'seed': seed})}"
    )
    stem = base_recipe.run or base_path.stem
    levels = {name: getattr(recipe, name) for name in levels}  # as checked: 0 has become 0.0
    parts = [stem, *filter(None, [arm]), *(_NO_NAME.sub("-", f"{name}{value}") for name, value in levels.items())]
    cell = _fitting("_".join(parts), reserved)
    return PlannedRun(cell, levels, _placed(path, {**recipe.model_dump(), "run": f"{cell}_seed{seed}"}))


def _weights(weights: str, seed: int, out_dir: str) -> str:
    """The file that `weights` names for a seed: runs/ is where this sweep's own runs are, and nowhere else."""
    named = weights.replace("{seed}", str(seed))
    return str(RunFolder("", out_dir).path.parent / named) if Path(named).parts[:1] == ("runs",) else named


def _fitting(name: str, reserved: int = 0) -> str:
    """The name if it and `reserved` characters fit into LONGEST, else its start and a hash of all of it."""
    room = LONGEST - reserved
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:10]
    return name if len(name) <= room else f"{name[: room - 11]}_{digest}"


def _placed(path: Path, values: dict[str, Any]) -> Recipe:
    """The recipe with its folders as absolute paths: a worker's current folder may be another."""
    for name in ("out_dir", "cache_dir"):
        if values[name]:
            values[name] = str(Path(values[name]).expanduser().absolute())
    data_dir = Path(values["data_dir"]).expanduser()
    if data_dir.exists():  # else each worker looks for it from its own project root
        values["data_dir"] = str(data_dir.absolute())
    weights = find(values["weights"])
    refuse_half_trained(weights)
    if weights.is_file():
        values["weights"] = str(weights.absolute())
    return Recipe.from_values(values, source=f"{path}: the run {values['run']}")


def _refuse_duplicates(path: Path, runs: list[PlannedRun], by_settings: bool) -> None:
    names, known = set(), {}
    for run in runs:
        if run.name in names:
            raise SweepError(f"{path}: the run {run.name} is listed twice; every value, seed and base must differ")
        names.add(run.name)
        data_dir = "" if run.recipe.dataset == "shapes" else run.recipe.data_dir  # no setting, but other images
        settings = json.dumps([run.recipe.settings(), data_dir], sort_keys=True)
        if by_settings and settings in known:
            raise SweepError(f"{path}: {known[settings]} and {run.name} are the same run under two names")
        known[settings] = run.name


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in values.items())
