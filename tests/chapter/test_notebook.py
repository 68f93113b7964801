"""Figures and texts of saliency in a chapter: the score that the run used, in the blocks where it drops tokens."""

import pytest
from conftest import TINY

from ptd_core.chapter import notebook, widgets
from ptd_core.evaluation.token_maps import token_maps
from ptd_core.progress import Progress
from ptd_core.recipe import Recipe
from ptd_core.run import execute
from ptd_core.saliency import object_coverage

PLAIN = {"rand_ops": 0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "epochs": 2, "drop_end": 1}


def labels(figure):
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def test_a_run_shows_its_score_in_its_blocks(tiny, capsys):
    run = execute(tiny(**PLAIN, drop_blocks="0, 1", drop_score="attention_received"), Progress(bar=False))
    figure = notebook.saliency(run, count=3)
    said = "In this run blocks 0 and 1 keep tokens by attention received; the others are discarded."
    assert figure.get_suptitle().replace("\n", " ") == said
    assert labels(figure)[:5] == [
        "image", "attention received\nblock 0", "32 of 64 kept", "attention received\nblock 1", "16 of 32 kept"
    ]  # fmt: skip
    assert (run.folder / "ptd_saliency.png").exists()
    capsys.readouterr()
    figure = notebook.coverage(run)
    printed, test = capsys.readouterr().out.splitlines(), run.trainer.test
    inputs = run.trainer.normalise(test.images.float() / 255)
    for line, one, percent in zip(printed, token_maps(run.model, run.recipe.token_drop, (32, 16), inputs), (50, 25)):
        covered = 100 * object_coverage(one.kept_BGG, test.masks)
        assert line == (
            f"by attention received block {one.block} keeps with {percent} % of the tokens {covered:.0f} % of the "
            "objects' pixels (n = 60 test images)"
        )
    assert len(printed) == 2 and "attention received" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize("score", ["oracle", "gradient", "averaged_attention", "random", "norm"])
def test_every_kind_of_score_has_its_figures_and_its_page(tiny, score):
    run = execute(tiny(**PLAIN, drop_score=score), Progress(bar=False))
    assert labels(notebook.saliency(run, count=2))[1].startswith(score.replace("_", " "))
    notebook.coverage(run)
    widgets.saliency_explorer(run)
    page = (run.folder / "ptd_saliency_explorer.html").read_text()
    first = page.partition('"scores":[{')[2].partition("}")[0]
    assert f'"name":"{score.replace("_", " ")}"' in first


def test_a_model_without_class_token_is_looked_at_by_what_all_tokens_attend_to(tmp_path):
    sizes = "patch_size=4,embed_dim=16,depth=2,num_heads=2,class_token=False,global_pool=avg"
    blind = {**TINY, **PLAIN, "out_dir": str(tmp_path), "model": "vit_tiny_patch16_224", "model_args": sizes}
    for name in ("stem_width", "stem_stride", "embed_dim", "depth", "num_heads"):
        blind.pop(name)
    run = execute(Recipe(**{**blind, "drop_final": 0.0, "drop_score": "norm", "run": "plain"}), Progress(bar=False))
    figure = notebook.saliency(run, notebook.by_attention(run, 1), keep=(8,), count=2)
    assert labels(figure)[1:3] == ["attention received\nblock 1", "8 of 16 kept"]


def test_a_method_without_scores_is_not_shown_as_if_attention_chose(tiny, capsys):
    run = execute(tiny(**PLAIN, drop_method="tome"), Progress(bar=False))
    assert "by tome, which does not choose by these scores" in notebook.saliency(run, count=2).get_suptitle().replace(
        "\n", " "
    )
    capsys.readouterr()
    figure = notebook.coverage(run)
    assert "by tome" in capsys.readouterr().out
    assert not any("drops tokens" in line.get_label() for line in figure.axes[0].lines)
