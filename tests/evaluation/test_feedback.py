"""Attention after each epoch: measures against counting by hand, and a run's own weights."""

import math

import pytest
import torch
from conftest import Lines
from safetensors.torch import load_file

from ptd_core.errors import OutputError, RecipeError
from ptd_core.evaluate import feedback as command
from ptd_core.evaluation import feedback
from ptd_core.load import load_weights
from ptd_core.model import HybridViT
from ptd_core.run import execute
from ptd_core.trainer import build_model

SETTINGS = {"weights_every": 1, "epochs": 4, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}


def counted(scores, keep):
    """The measures, image by image and token by token."""
    rows, kept_before, kept_last = [], None, None
    images, tokens = scores[0].shape
    top = [[set(sorted(range(tokens), key=lambda t: -s[i, t].item())[:keep]) for i in range(images)] for s in scores]
    kept_last = top[-1]
    for number, s in enumerate(scores):
        entropy = on_kept = changed = returned = until_end = 0
        for i in range(images):
            share = [value / sum(s[i].tolist()) for value in s[i].tolist()]
            entropy -= sum(p * math.log(p) for p in share) / math.log(tokens) / images
            on_kept += sum(share[t] for t in top[number][i]) / images
            until_end += len(top[number][i] - kept_last[i]) / keep / images
            if kept_before:
                dropped = set(range(tokens)) - kept_before[i]
                changed += len(top[number][i] - kept_before[i]) / keep / images
                returned += len(top[number][i] & dropped) / len(dropped) / images
        kept_before = top[number]
        rows.append([entropy, on_kept, changed if number else math.nan, returned if number else math.nan, until_end])
    return rows


def test_measures_are_those_counted_one_by_one():
    generator = torch.Generator().manual_seed(3)
    scores = [torch.rand(7, 9, generator=generator) ** 3 for _ in range(4)]
    found = list(feedback.measures(scores, 4))
    assert [list(one) for one in found] == [list(feedback.MEASURES)] * 4
    for one, expected in zip(found, counted(scores, 4)):
        assert list(one.values()) == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_uniform_attention_has_entropy_one_and_a_single_token_has_none():
    uniform, single = torch.full((3, 16), 0.05), torch.zeros(3, 16)
    single[:, 5] = 1.0
    first, second = feedback.measures([uniform, single], 1)
    assert first["entropy"] == pytest.approx(1) and second["entropy"] == pytest.approx(0, abs=1e-12)
    assert first["on_kept"] == pytest.approx(1 / 16) and second["on_kept"] == 1


def test_random_scores_change_as_chance_does():
    generator = torch.Generator().manual_seed(1)
    _, second = feedback.measures([torch.rand(4000, 20, generator=generator) for _ in range(2)], 12)
    assert second["changed"] == pytest.approx(8 / 20, abs=0.01) and second["returned"] == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("keep", [0, 16, 17])
def test_nothing_or_everything_kept_is_refused(keep):
    with pytest.raises(ValueError, match=f"1 to 15 can be kept; got {keep}"):
        list(feedback.measures([torch.rand(2, 16)], keep))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_shapes):
    from conftest import TINY

    from ptd_core.recipe import Recipe

    folder = tmp_path_factory.mktemp("feedback")
    return [
        execute(Recipe(**{**TINY, "out_dir": str(folder), "run": f"seen{seed}", "seed": seed, **SETTINGS}), Lines(),
                dataset=tiny_shapes)
        for seed in (0, 1)
    ]  # fmt: skip


def test_weights_of_every_epoch_are_those_that_a_shorter_look_back_finds(trained):
    folder = trained[0].folder
    files = sorted(path.name for path in folder.glob("weights_after_epoch_*"))
    assert files == [f"weights_after_epoch_{epoch}.safetensors" for epoch in (1, 2, 3, 4)]
    last, after_last = load_file(folder / "weights.safetensors"), load_file(folder / files[-1])
    assert all(torch.equal(last[name], after_last[name]) for name in last)
    assert any(not torch.equal(last[name], value) for name, value in load_file(folder / files[-2]).items())


def test_rows_of_runs_are_their_weights_scores(trained, tiny_shapes, tmp_path):
    folders = [run.folder for run in trained]
    rows = command.measure(folders, [], keep=0.25, blocks="1", images=0)
    assert [(row.seed, row.epoch, row.block, row.kept, row.tokens) for row in rows] == [
        (seed, epoch, 1, 16, 64) for seed in (0, 1) for epoch in range(5)
    ]
    assert {row.cell for row in rows} == {rows[0].cell}
    run = trained[1]
    models = [build_model(run.recipe, 10), *(load_weights(run.folder, run.record, epoch) for epoch in (1, 2, 3, 4))]
    images = run.trainer.normalise(tiny_shapes.test.images.float() / 255)
    expected = []
    for model in models:
        assert isinstance(model, HybridViT)
        with torch.no_grad():
            x = model.eval().blocks[0](model.embed(images))
            attention = model.blocks[1].attn
            query, key, _ = (
                attention.qkv(model.blocks[1].norm1(x)).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
            )
            expected.append((query @ key.transpose(2, 3) / 8**0.5).softmax(-1)[:, :, 0, 1:].mean(dim=1))
    for row, values in zip(rows[5:], counted(expected, 16)):
        found = [getattr(row, name) for name in feedback.MEASURES]
        assert found == pytest.approx(values, rel=1e-4, abs=2e-3, nan_ok=True)  # of 960 kept tokens two may be ties
    assert [row.trained_with for row in rows[5:]] == [run.recipe.kept_tokens(epoch) for epoch in (0, 0, 1, 2, 3)]


def test_the_command_writes_a_table_that_reads_back_and_a_picture(trained, tmp_path, capsys):
    folders = [str(run.folder) for run in trained]
    assert command.main([*folders, "--images", "30", "--to", str(tmp_path / "to"), "device=cpu"]) == 0
    rows = feedback.read(tmp_path / "to")
    assert len(rows) == 2 * 2 * 5 and {row.images for row in rows} == {30} and {row.kept for row in rows} == {41}
    assert (tmp_path / "to" / "feedback.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("\n") > 8


def test_what_began_with_a_file_is_measured_from_its_first_epoch_on(trained, tiny, tiny_shapes):
    weights = str(trained[0].folder / "weights.safetensors")
    tuned = execute(tiny(**SETTINGS, run="tuned", weights=weights), Lines(), dataset=tiny_shapes)
    rows = command.measure([tuned.folder], [], 0.5, "1", 20)
    assert [row.epoch for row in rows] == [1, 2, 3, 4] and math.isnan(rows[0].changed) and rows[1].changed >= 0


def test_what_cannot_be_measured_is_refused_in_a_sentence(trained, tiny, tiny_shapes):
    folder = trained[0].folder
    with pytest.raises(RecipeError, match=r"--blocks 0,2: .* has blocks 0 to 1"):
        command.measure([folder], [], 0.5, "0,2", 0)
    with pytest.raises(RecipeError, match=r"drop_final=.*only data_dir"):
        command.measure([folder], ["drop_final=.2"], 0.5, "", 0)
    for keep in (0.01, 1 - 1e-9):
        with pytest.raises(RecipeError, match=r"--keep .* of the 64 patch tokens of .*; name some of them"):
            command.measure([folder], [], keep, "", 0)
    with pytest.raises(RecipeError, match="at least one run"):
        command.measure([], [], 0.5, "", 0)
    without = execute(tiny(run="without", epochs=3), Lines(), dataset=tiny_shapes)
    with pytest.raises(OutputError, match=r"keeps no weights between .* weights_every = 1"):
        command.measure([without.folder], [], 0.5, "", 0)
