"""The sweeps behind the evidence: fair controls, and twins at the published size that ask the same."""

import functools
import re

import pytest

from ptd_core.cost import run_training_cost
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.records.finished_runs import read_runs
from ptd_core.sweep.file import read_file
from ptd_core.sweep.plan import read_plan

SWEEPS = PROJECT_ROOT / "parameters" / "sweeps"
TWINS = sorted((SWEEPS / "full").glob("*.yaml"))
IN_EQUAL_TIME = [path for path in SWEEPS.glob("*/*.yaml") if re.search("direction|steeper|confirm", path.stem)]
IN_EPOCHS = {"epochs", "drop_start", "drop_end"}
FIXED = {"speed": {"epoch_images"}, "feedback": {"weights_every"}, "transfer": {"dataset", *IN_EPOCHS}}  # of twins


def arms(path):
    """The recipe of each arm, for its first seed."""
    found = {}
    for run in read_plan(path).runs:
        found.setdefault(run.cell, run.recipe)
    prefix = next(iter(found)).removesuffix("all_tokens")
    return {cell.removeprefix(prefix): recipe for cell, recipe in found.items()}


@functools.cache
def operations(recipe):
    return run_training_cost(recipe.vit, 100, recipe.token_drop, recipe.keeps, recipe.sides)[0]


@pytest.mark.parametrize("path", sorted(IN_EQUAL_TIME), ids=lambda path: path.stem)
def test_an_arm_that_saves_is_compared_with_all_tokens_in_as_much_time(path):
    """The control with fewer epochs is the one whose operations come nearest to the arm's."""
    recipes = arms(path)
    fewer = {name: recipe for name, recipe in recipes.items() if name.startswith("all_tokens_")}
    compared = 0
    for arm, controls in read_file(path).controls.items():
        assert "all_tokens" in controls
        nearest = min(fewer, key=lambda name: abs(operations(fewer[name]) - operations(recipes[arm])))
        assert [name for name in controls if name in fewer] == [nearest], arm
        assert abs(operations(fewer[nearest]) / operations(recipes[arm]) - 1) < 0.05
        compared += 1
    assert compared == len(recipes) - len(fewer) - 1
    assert all(recipe.replace(epochs=recipes["all_tokens"].epochs) == recipes["all_tokens"].replace(
        run=recipe.run) for recipe in fewer.values())  # fmt: skip


@pytest.mark.parametrize("path", TWINS, ids=lambda path: path.stem)
def test_a_twin_asks_the_same_at_the_published_size(path):
    question = path.stem.removeprefix("full_").removeprefix("50_")
    twin, original = read_file(path), read_file(SWEEPS / "evidence" / f"{question}.yaml")
    assert twin.seeds == original.seeds and set(twin.fixed) == FIXED.get(question, set())
    tag = path.stem.removesuffix(f"_{question}")
    base = Recipe.from_yaml(PROJECT_ROOT / "parameters" / f"{tag}.yaml")

    def plain(content):
        """Arms without what counts epochs, by what they change; equal-time controls apart."""
        kept = {name: arm for name, arm in content.arms.items() if not name.startswith("all_tokens_")}
        kept.pop("timed_one_token_less", None)  # of another number of tokens
        return [
            {
                key: str(value).replace("runs/evidence_", f"runs/{tag}_")
                for key, value in arm.items()
                if key not in IN_EPOCHS
            }
            for arm in kept.values()
        ]

    assert plain(twin) == plain(original)
    assert base.epochs == (50 if tag == "full_50" else 200)
    assert len(twin.controls) == len(original.controls) and len(twin.arms) >= len(original.arms)


def test_every_question_but_the_choice_of_a_size_has_its_twins():
    questions = {path.stem for path in (SWEEPS / "evidence").glob("*.yaml")} - {"control"}
    assert {path.stem for path in TWINS} == {
        f"{tag}_{question}" for tag in ("full", "full_50") for question in questions
    }


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*/*speed.yaml")), ids=lambda path: path.stem)
def test_all_arms_of_direction_and_the_confirmed_one_are_timed(path):
    siblings = (path.with_stem(path.stem.replace("speed", name)) for name in ("direction", "steeper"))
    direction, steeper = map(read_file, siblings)
    timed = {name.removeprefix("timed_"): arm for name, arm in read_file(path).arms.items()}
    assert timed.pop("one_token_less")
    confirmed = set(read_file(SWEEPS / "evidence" / "confirm.yaml").arms) & set(timed) - set(direction.arms)
    assert {arm: timed.pop(arm) for arm in confirmed} == {arm: steeper.arms[arm] for arm in confirmed} != {}
    assert timed == {name: arm for name, arm in direction.arms.items() if not name.startswith("all_tokens_")}


@pytest.mark.parametrize("folder", ["evidence", "full"])
def test_one_token_less_is_one_token_less(folder):
    for path in (SWEEPS / folder).glob("*speed.yaml"):
        recipe = arms(path)["one_token_less"]
        assert {recipe.kept_tokens(epoch) for epoch in range(recipe.epochs)} == {recipe.vit.patch_tokens - 1}


@pytest.mark.parametrize("path", [*(SWEEPS / "evidence").glob("*.yaml"), *TWINS], ids=lambda path: path.stem)
def test_a_file_says_how_many_runs_it_is_and_how_to_start_it(path):
    text, runs = path.read_text(encoding="utf-8"), read_plan(path, to_train=False).runs
    assert f"# {len(runs)} runs" in text
    assert f"python -m ptd_core.sweep {path.relative_to(PROJECT_ROOT)} data_dir=PATH_TO_" in text
    assert {run.recipe.seed for run in runs} <= set(range(20))  # higher ones stay unused


@pytest.mark.parametrize("path", sorted((SWEEPS / "evidence").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_says_how_long_it_takes(path):
    """Its operations over those of the control, times the control's measured time."""
    (control,) = [
        run
        for run in read_runs(PROJECT_ROOT / "figures" / "evidence" / "control")
        if run.run == "evidence_no_crop_seed0"
    ]
    assert control.device == "AMD EPYC, 1 thread"

    def work(recipe):
        images = recipe.subset or (10_000 if recipe.dataset == "folder" else 50_000)
        return operations(recipe) * recipe.steps(images) * recipe.batch_size

    whole = read_plan(SWEEPS / "evidence" / "control.yaml").runs[0].recipe
    seconds = sum(work(run.recipe) for run in read_plan(path, to_train=False).runs) / work(whole)
    seconds *= control.train_seconds + control.eval_seconds
    at_once = {"one run at a time": 1, "two runs at once": 2}
    hours, how = re.search(r"# Expected: ([\d.]+) h, (.*), on an AMD EPYC without", path.read_text()).groups()
    assert hours == f"{seconds / 3600 / at_once[how]:.1f}"
