"""The published methods as files: each trains, resumes, runs on several ranks, and compiles few graphs."""

import json

import pytest
import torch
from graphs import counted_graphs
from ranked import run_each, together

from ptd_core import __main__ as command_line
from ptd_core.cost import run_training_cost
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.records.finished_runs import read_runs
from ptd_core.records.history import history_file, read_csv

FILES = sorted((PROJECT_ROOT / "parameters" / "space").glob("*.yaml"))
SMALL = {"subset": 160, "test_subset": 60, "stem_width": 4, "embed_dim": 16, "num_heads": 2, "batch_size": 32,
         "epochs": 4, "warmup_epochs": 0, "device": "cpu", "precision": "fp32"}  # fmt: skip
# Their own curricula take ten epochs; these four have all of it, from the first drop to the last.
SHORT = {"ptd": {"drop_start": 0, "drop_end": 2}, "evit": {"drop_start": 0, "drop_end": 2}, "pss": {"drop_cycle": 2},
         "random_ltd": {"drop_end": 3}, "evo_vit": {"drop_start": 1}}  # fmt: skip

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def small(path, folder):
    return Recipe.from_yaml(path).replace(**SMALL, **SHORT.get(path.stem, {}), out_dir=str(folder))


@every_file
def test_a_file_says_what_it_is_and_how_to_run_it(path):
    recipe, text = Recipe.from_yaml(path), path.read_text(encoding="utf-8")
    assert recipe.run == f"space_{path.stem}" and recipe.chapter == "ptd" and any(recipe.keeps)
    assert f"papermill book/ptd.ipynb out.ipynb -f parameters/space/{path.name}\n" in text
    assert f"python -m ptd_core parameters/space/{path.name}\n" in text


@every_file
def test_what_a_file_expects_is_what_its_published_run_and_the_bench_say(path):
    """figures/space/runs.csv and the bench of methods; operations are computed anew."""
    (run,) = [run for run in read_runs(PROJECT_ROOT / "figures" / "space") if run.run == f"space_{path.stem}"]
    report = PROJECT_ROOT / "figures" / "bench" / "space_AMD_EPYC_without_bf16_2_threads" / "bench.json"
    rows = json.loads(report.read_text(encoding="utf-8"))["sections"]["space"]
    (step,) = [row for row in rows if row["case"] == path.stem]
    recipe = Recipe.from_yaml(path)
    ours, whole = run_training_cost(recipe.vit, 10, recipe.token_drop, recipe.keeps, recipe.sides)
    text = path.read_text(encoding="utf-8").replace("\n# ", " ")
    assert run.fingerprint in ("", recipe.fingerprint) and (run.seed, run.epochs) == (0, recipe.epochs)
    assert f"Expected: {run.test_accuracy:.2f} % test accuracy" in text
    assert f"Operations predict {whole / ours:.3f}x" in text and f"measured at {step['speedup']:.3f}x" in text


def test_every_file_is_another_point_of_the_space():
    points = {(recipe.token_drop, recipe.schedule) for recipe in map(Recipe.from_yaml, FILES)}
    assert len(points) == len(FILES) == 10


@every_file
def test_it_trains_from_the_command_line(path, tmp_path, capsys):
    settings = {**SMALL, **SHORT.get(path.stem, {}), "out_dir": tmp_path}
    status = command_line.main([str(path), *(f"{name}={value}" for name, value in settings.items())])
    assert status == 0
    recipe = small(path, tmp_path)
    records = read_csv(history_file(tmp_path / "runs" / recipe.run, "ptd"))
    assert [record.kept_tokens for record in records] == [recipe.kept_tokens(epoch) for epoch in range(4)]
    assert records[-1].train_loss < records[0].train_loss
    assert "by" in capsys.readouterr().out or path.stem == "ptd"


@pytest.mark.slow
def test_two_ranks_train_each_and_resume_equal(tmp_path):
    shorter = {"epochs": 2, "drop_start": 0, "drop_end": 2, "subset": 96, "test_subset": 32}
    recipes = [small(path, tmp_path).replace(**shorter) for path in FILES]
    assert all(any(recipe.keeps) for recipe in recipes)
    assert together(run_each, recipes, (1, 2))[0] == [True] * len(FILES)


@pytest.mark.slow
@every_file
def test_a_whole_schedule_compiles_at_most_three_graphs(path):
    torch._dynamo.reset()
    recipe = Recipe.from_yaml(path).replace(**{**SMALL, "epochs": 30})
    if recipe.drop_method != "token_drop":  # theirs is flat: let it pass through many numbers of tokens
        recipe = recipe.replace(drop_shape="polynomial")
    if recipe.drop_shape in ("polynomial", "cosine"):
        recipe = recipe.replace(drop_start=3, drop_end=27)
    model, teacher = (recipe.vit.build(5, "fused") for _ in range(2))
    network = recipe.token_drop.network(model.train(), teacher.eval()).train()
    compiled, graphs = counted_graphs(network, "eager")
    images = torch.randn(2, 3, 32, 32)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for keep in dict.fromkeys(recipe.keeps):
            out = compiled(images, keep)
            sum(part.sum() for part in (out if isinstance(out, tuple) else (out,))).backward()
    assert 1 <= len(graphs) <= 3
