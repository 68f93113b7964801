"""Sweep files: which runs they stand for, and what is refused before any of them starts."""

import itertools

import pytest
import yaml
from conftest import TINY

from ptd_core.errors import RecipeError, SweepError
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.recipe import Recipe
from ptd_core.records.folders import NAME
from ptd_core.sweep.file import FACTORS
from ptd_core.sweep.plan import read_plan

SWEEPS = sorted((ROOT / "parameters" / "sweeps").rglob("*.yaml"))


@pytest.fixture
def sweep(tmp_path):
    """A function that writes a sweep file and two base files, `plain` and `wide`, beside it."""
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump({**TINY, "run": "plain"}))
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump({**TINY, "embed_dim": 32}))  # unnamed: called as its file

    def write(text, name="try.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_every_combination_is_one_run(sweep):
    path = sweep("""
        base: [plain.yaml, wide.yaml]
        fixed: {epochs: 2}
        factors: {drop_final: [0, 0.25, 0.5], drop_block: [0, 1]}
        seeds: [3, 5, 8]
    """)
    plan = read_plan(path)
    expected = [
        Recipe(**{**TINY, "embed_dim": width, "epochs": 2, "drop_final": final, "drop_block": block, "seed": seed})
        for width, final, block, seed in itertools.product((16, 32), (0.0, 0.25, 0.5), (0, 1), (3, 5, 8))
    ]

    def all_settings(recipes):
        return sorted(str(sorted(recipe.settings().items())) for recipe in recipes)

    assert all_settings(run.recipe for run in plan.runs) == all_settings(expected)
    assert len({run.name for run in plan.runs}) == len(expected) == 36
    assert {run.recipe.seed for run in plan.runs[:12]} == {3}  # every cell once, before any twice
    for run in plan.runs:
        stem = {16: "plain", 32: "wide"}[run.recipe.embed_dim]
        assert run.cell == f"{stem}_drop_final{run.recipe.drop_final}_drop_block{run.recipe.drop_block}"
        assert run.name == f"{run.cell}_seed{run.recipe.seed}"
        assert run.levels == {"drop_final": run.recipe.drop_final, "drop_block": run.recipe.drop_block}
    assert [run.name for run in read_plan(path).runs] == [run.name for run in plan.runs]


def test_arms_are_named_sets_of_parameters(sweep):
    text = """
        base: plain.yaml
        fixed: {{epochs: 2}}
        arms: {{all_tokens: {{drop_final: 0.0}}, late: {{drop_final: 0.25, drop_block: 1, epochs: 1}}}}
        {more}
        seeds: [3, 5]
    """
    runs = read_plan(sweep(text.format(more=""))).runs
    shared = {**TINY, "epochs": 2}
    late = {**shared, "drop_final": 0.25, "drop_block": 1, "epochs": 1}
    expected = [Recipe(**{**values, "seed": seed}) for seed in (3, 5) for values in ({**shared, "drop_final": 0}, late)]
    assert [run.recipe.settings() for run in runs] == [recipe.settings() for recipe in expected]
    assert [run.name for run in runs[:3]] == ["plain_all_tokens_seed3", "plain_late_seed3", "plain_all_tokens_seed5"]
    crossed = read_plan(sweep(text.format(more="factors: {lr: [0.1, 0.2]}"))).runs
    assert [run.cell for run in crossed[:2]] == ["plain_all_tokens_lr0.1", "plain_all_tokens_lr0.2"]
    assert len(crossed) == 8


def test_values_that_no_folder_can_be_called_by_are_named_with_hyphens(sweep):
    text = "{{base: plain.yaml, factors: {{drop_blocks: {}}}, seeds: [0]}}"
    runs = read_plan(sweep(text.format('["0", "0, 1"]'))).runs
    assert [run.cell for run in runs] == ["plain_drop_blocks0", "plain_drop_blocks0-1"]
    assert [run.levels["drop_blocks"] for run in runs] == ["0", "0, 1"]
    with pytest.raises(SweepError, match="plain_drop_blocks0-1_seed0 is listed twice"):
        read_plan(sweep(text.format('["0, 1", "0,1"]')))


def test_controls_pair_the_cells_of_arms(sweep):
    text = """
        base: [plain.yaml, wide.yaml]
        arms: {all_tokens: {drop_final: 0.0}, late: {drop_block: 1}, short: {drop_final: 0.0, epochs: 1}}
        controls: {late: [all_tokens, short]}
        factors: {lr: [0.1, 0.2]}
        seeds: [3, 5]
    """
    found = read_plan(sweep(text)).pairs
    assert found == tuple(
        (f"{base}_late_lr{lr}", f"{base}_{control}_lr{lr}")
        for base in ("plain", "wide") for lr in (0.1, 0.2) for control in ("all_tokens", "short")
    )  # fmt: skip


@pytest.mark.parametrize(
    ("controls", "words"),
    [
        ("{late: [all_tokns]}", "controls: 'all_tokns' is no arm of this sweep; did you mean all_tokens?"),
        ("{early: [all_tokens]}", "controls: 'early' is no arm of this sweep; its arms are all_tokens, late"),
        ("{late: [late]}", "controls: late cannot be its own control"),
        ("{late: all_tokens}", "controls must be arm: \\[arm, ...\\] lines"),
    ],
)
def test_controls_must_be_arms(sweep, controls, words):
    arms = "{all_tokens: {drop_final: 0.0}, late: {drop_block: 1}}"
    with pytest.raises(SweepError, match=words):
        read_plan(sweep(f"{{base: plain.yaml, arms: {arms}, controls: {controls}, seeds: [0]}}"))


def test_the_command_line_does_not_undo_an_arm(sweep):
    with pytest.raises(SweepError, match="lr is set by arm fast; the command line must not set it too"):
        read_plan(sweep("{base: plain.yaml, arms: {fast: {lr: 0.1}}, seeds: [0]}"), ["lr=0.2"])


def test_command_line_replaces_fixed_replaces_base(sweep, tmp_path, monkeypatch):
    path = sweep("{base: plain.yaml, fixed: {epochs: 2, lr: 0.5}, seeds: [0]}")
    (run,) = read_plan(path, ["lr=4e-4", f"out_dir={tmp_path}"]).runs
    assert (run.recipe.epochs, run.recipe.lr, run.recipe.depth) == (2, 4e-4, TINY["depth"])
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    plan = read_plan(path, ["out_dir=here", "data_dir=images"])  # a worker's current folder may be another
    assert plan.runs[0].recipe.out_dir == str(tmp_path / "here")
    assert plan.runs[0].recipe.data_dir == str(tmp_path / "images")
    assert plan.folder.path == tmp_path / "here" / "runs" / "try"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "base must be a parameter file or a list of them; got nothing"),
        ("[1, 2]", "expected lines of the form `name: value`, got seq"),
        ("base: {", "is not valid YAML"),
        ("{seeds: [0]}", "base must be a parameter file or a list of them; got nothing"),
        ("{base: plain.yaml}", "seeds must be a list of integers, such as [0, 1, 2]; got nothing"),
        ("{base: plain.yaml, seeds: []}", "seeds must be a list of integers"),
        ("{base: plain.yaml, seeds: [true]}", "seeds must be a list of integers, such as [0, 1, 2]; got True"),
        ("{base: [], seeds: [0]}", "base must be"),
        ("{base: plain.yaml, seeds: [0], factor: {lr: [1]}}", "factor is not a line of a sweep file; known are base"),
        ("{base: plain.yaml, seeds: [0], factors: {lr: 0.1}}", "factors must be parameter: [value, ...] lines"),
        ("{base: plain.yaml, seeds: [0], seeds: [1]}", "seeds is given twice"),
        ("{base: plain.yaml, seeds: [0], factors: {lr: []}}", "factor lr lists no value"),
        ("{base: plain.yaml, seeds: [0], factors: {drop_finl: [0]}}", "cannot be a factor; did you mean drop_final?"),
        ("{base: plain.yaml, seeds: [0], factors: {seed: [0]}}", "seeds have a line of their own"),
        ("{base: plain.yaml, seeds: [0], factors: {out_dir: [a, b]}}", "out_dir cannot be a factor"),
        ("{base: plain.yaml, seeds: [0], fixed: {lr: 0.1}, factors: {lr: [0.1]}}", "lr is a factor; fixed must not"),
        ("{base: plain.yaml, seeds: [0], fixed: {run: mine}}", "fixed must not set run"),
        ("{base: plain.yaml, seeds: [0], arms: {a: {seed: 3}}}", "seed cannot be set by arm a; seeds have a line"),
        ("{base: plain.yaml, seeds: [0], arms: {a: {lrr: 3}}}", "lrr cannot be set by arm a; did you mean lr?"),
        ("{base: plain.yaml, seeds: [0], arms: {'a/b': {lr: 3}}}", "an arm's name is part of a folder's"),
        ("{base: plain.yaml, seeds: [0], arms: [a, b]}", "arms must be name: {parameter: value, ...} lines"),
        ("{base: plain.yaml, seeds: [0], arms: {a: {lr: 0.1}}, factors: {lr: [1]}}", "an arm must not set it too"),
        ("{base: plain.yaml, seeds: [0], arms: {a: {}, b: {}}}", "plain_a_seed0 and plain_b_seed0 are the same"),
        ("{base: plain.yaml, seeds: [0, 1, 0]}", "plain_seed0 is listed twice"),
        ("{base: plain.yaml, seeds: [0], factors: {erase: [0, 0.0]}}", "plain_erase0.0_seed0 is listed twice"),
        ("{base: [plain.yaml, plain.yaml], seeds: [0]}", "plain_seed0 is listed twice"),
        ("{base: [plain.yaml, wide.yaml], seeds: [0], fixed: {embed_dim: 16}}", "plain_seed0 and wide_seed0 are"),
        ("{base: plain.yaml, seeds: [0], fixed: {device: 'cuda:1'}}", "use 'cuda'"),
    ],
)  # fmt: skip
def test_malformed_sweeps_are_refused(sweep, text, words):
    path = sweep(text)
    with pytest.raises(SweepError) as refusal:
        read_plan(path)
    assert str(path) in str(refusal.value) and words in str(refusal.value)


def test_bases_must_agree_on_where_to_write(sweep, tmp_path):
    (tmp_path / "wide.yaml").write_text("{embed_dim: 48, out_dir: /elsewhere}")
    with pytest.raises(SweepError, match="differ in out_dir"):
        read_plan(sweep("{base: [plain.yaml, wide.yaml], seeds: [0]}"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{base: plain.yaml, seeds: [0], factors: {drop_block: [0, 9]}}", "plain.yaml with drop_block = 9, seed = 0"),
        ("{base: plain.yaml, seeds: [-1]}", "seed should be greater than or equal to 0"),
        ("{base: plain.yaml, seeds: [0], fixed: {epoch: 3}}", "epoch = 3 is not a parameter; did you mean epochs?"),
        ("{base: absent.yaml, seeds: [0]}", "absent.yaml: cannot be read"),
        ("{base: plain.yaml, seeds: [0], factors: {lr: [fast]}}", "lr should be a valid number; got 'fast'"),
    ],
)
def test_one_run_that_is_not_allowed_refuses_the_sweep(sweep, text, words):
    with pytest.raises(RecipeError) as refusal:
        read_plan(sweep(text))
    assert words in str(refusal.value)


def test_a_sweep_does_not_share_a_folder_with_a_run(sweep, tmp_path):
    text = f"{{base: plain.yaml, seeds: [0], fixed: {{out_dir: {tmp_path}}}}}"
    with pytest.raises(SweepError, match="folder of a run"):
        read_plan(sweep(text, "plain_seed0.yaml"))
    for name, file in (("other", "run.json"), ("stopped", "last.pt")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / file).write_text("{}")
        with pytest.raises(SweepError, match="folder of a run"):
            read_plan(sweep(text, f"{name}.yaml"))
    with pytest.raises(SweepError, match="named after its file"):
        read_plan(sweep(text, "a sweep.yaml"))
    with pytest.raises(SweepError, match="cannot be read"):
        read_plan(tmp_path / "absent.yaml")


def test_weights_that_earlier_runs_of_each_seed_have_learned(sweep, tmp_path, monkeypatch):
    """{seed} is the run's own; runs/ is where this sweep writes; to read records none need be there."""
    path = sweep("""
        base: plain.yaml
        arms:
          fresh: {}
          tuned: {weights: "runs/first_seed{seed}/weights.safetensors"}
          same: {weights: "runs/first_seed0/weights.safetensors", lr: 0.5}
        seeds: [0, 1]
    """)
    out = [f"out_dir={tmp_path / 'elsewhere'}"]
    strange = tmp_path / "runs" / "first_seed0" / "weights.safetensors"  # of another experiment, in the current folder
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"arm tuned, seed = 0.*first_seed0/weights\.safetensors'"):
        read_plan(path, out)
    files = [tmp_path / "elsewhere" / "runs" / f"first_seed{seed}" / "weights.safetensors" for seed in (0, 1)]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes([number]))
    found = {run.name: run.recipe.weights for run in read_plan(path, out).runs}
    assert found == {
        "plain_fresh_seed0": "", "plain_fresh_seed1": "", "plain_tuned_seed0": str(files[0]),
        "plain_tuned_seed1": str(files[1]), "plain_same_seed0": str(files[0]), "plain_same_seed1": str(files[0]),
    }  # fmt: skip
    (files[1].parent / "last.pt").write_bytes(b"")  # a run under way
    with pytest.raises(RecipeError, match=r"first_seed1/weights.safetensors': are of a run that is not finished"):
        read_plan(path, out)
    recorded = read_plan(path, to_train=False).runs
    assert [run.name for run in recorded] == list(found) and {run.recipe.weights for run in recorded} == {""}


def test_everything_that_decides_a_result_can_be_a_factor():
    later = {"model", "model_args", "weights", "label_column", "crop", "crop_scale_min", "crop_ratio_min",
             "crop_interpolation", "frozen_blocks", "accumulate_steps", "layer_decay", "epoch_images"}  # fmt: skip
    assert set(FACTORS) == {*Recipe().settings(), *later} - {"seed"}
    assert not set(FACTORS) & {"run", "device", "out_dir", "data_dir", "download"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_shipped_sweeps(path):
    assert f"python -m ptd_core.sweep {path.relative_to(ROOT)}" in path.read_text()
    plan = read_plan(path, to_train=False)
    assert f"# {len(plan.runs)} runs" in path.read_text()
    seeds = {run.recipe.seed for run in plan.runs}  # every cell has all of them
    assert len(plan.runs) == len(seeds) * len({run.cell for run in plan.runs})
    assert seeds <= set(range(20))


def test_long_names_are_cut_and_end_in_a_hash(sweep):
    names = ["drop_final", "drop_start", "drop_end", "drop_gamma", "weight_decay", "label_smoothing", "lr", "erase"]
    levels = {"drop_final": [0.25, 0.5], "drop_start": [0], "drop_end": [2], "drop_gamma": [2.125],
              "weight_decay": [0.05], "label_smoothing": [0.125], "lr": [0.001, 0.002], "erase": [0.25]}  # fmt: skip
    text = yaml.safe_dump({"base": "plain.yaml", "factors": levels, "seeds": [0, 12345]}, sort_keys=False)
    plan = read_plan(sweep(text, "x" * 120 + ".yaml"))
    cells = {run.cell for run in plan.runs}
    assert len({run.name for run in plan.runs}) == 8 and len(cells) == 4 and list(levels) == names
    for run in plan.runs:
        assert run.name == f"{run.cell}_seed{run.recipe.seed}" and NAME.fullmatch(run.name)
        assert run.cell.startswith("plain_drop_final0.") and len(run.cell) == 100 - len("_seed12345")
    assert NAME.fullmatch(plan.name) and plan.name.startswith("x" * 89 + "_")
    again = read_plan(sweep(text, "x" * 121 + ".yaml"))
    assert [run.name for run in again.runs] == [run.name for run in plan.runs] and again.name != plan.name
