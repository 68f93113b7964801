"""Parameters: what follows from them, and that files, chapters and command line mean the same."""

from typing import get_args

import pytest
import yaml
from forked import run_module

from ptd_core.errors import RecipeError
from ptd_core.paths import PROJECT_ROOT as ROOT
from ptd_core.recipe import Recipe, parameters_cell

FILES = sorted((ROOT / "parameters").glob("*.yaml"))


def test_settings_that_hold_several_numbers_may_hold_one():
    assert Recipe.from_values({"drop_blocks": 2}).token_drop.blocks == (2,)
    assert Recipe.from_values({"drop_blocks": "2", "drop_shares": 0.5, "drop_start": 0, "drop_end": 0}).keeps[0] == (
        52,
    )
    assert Recipe.from_yaml(ROOT / "parameters" / "demo.yaml", ["drop_blocks=0, 2"]).token_drop.blocks == (0, 2)


def test_kept_tokens_of_several_blocks():
    """Each drops of what reaches it: in EViT with the fused token, where tokens skip a block with all of them."""
    half = {"drop_shape": "flat", "drop_start": 0, "drop_final": 0.5, "drop_blocks": "0, 1, 2"}
    for fate, expected in (("discard", (32, 16, 8)), ("fuse", (32, 16, 8)), ("skip", (32, 32, 32))):
        assert Recipe(**half, drop_fate=fate).keeps == [expected] * 10
    thirds = {**half, "drop_final": 0.3}
    assert Recipe(**thirds, drop_fate="fuse").keeps[0] == (44, 31, 22)  # of 64, 45 and 32
    assert Recipe(**half, drop_fate="discard", drop_shares="1, 0, .5").keeps[0] == (32, 32, 24)


def test_image_sizes_change_the_number_of_tokens():
    recipe = Recipe(size_stages="24/28/32 at 60/20/20", drop_shape="flat", drop_start=0, drop_final=0.25)
    assert recipe.sides == [24] * 6 + [28] * 2 + [32] * 2
    assert [recipe.kept_tokens(epoch) for epoch in (0, 6, 9)] == [27, 36, 48]  # of 36, 49 and 64
    assert Recipe(size_stages="24/32 at 1/1", drop_final=0.0).chapter == "baseline"


@pytest.mark.parametrize("text", ["4e-4", "4E-4", "+4e-04", ".0004", "4.e-4", "'4e-4'"])
def test_numbers_in_text_are_read_as_numbers(tmp_path, text):
    """YAML 1.1 takes some of these for text."""
    (tmp_path / "some.yaml").write_text(f"lr: {text}\n")
    assert Recipe.from_yaml(tmp_path / "some.yaml").lr == 4e-4
    assert Recipe.from_values({"lr": "4e-4", "dataset": "shapes"}).lr == 4e-4
    with pytest.raises(RecipeError, match="lr should be less than or equal to 10; got 4000"):
        Recipe.from_values({"lr": "4e3"})


def test_copies_are_checked_too():
    recipe = Recipe()
    assert recipe.replace(drop_block=2).token_drop.blocks == (2,) and recipe.drop_block == 0
    for change in (recipe.replace, lambda **values: recipe.model_copy(update=values)):
        with pytest.raises(RecipeError, match="drop_block must be from 0 to 3"):
            change(drop_block=99)
        with pytest.raises(RecipeError, match="did you mean drop_block"):
            change(drop_blok=1)


def test_every_part_gets_its_values():
    recipe = Recipe.from_yaml(ROOT / "parameters" / "ptd_aug.yaml")
    vit, drop, augmentation = recipe.vit, recipe.token_drop, recipe.augmentation
    assert (vit.img_size, vit.stem_width, vit.stem_stride, vit.embed_dim, vit.depth) == (32, 64, 2, 192, 6)
    assert (vit.num_heads, vit.mlp_ratio, vit.qkv_bias, vit.drop_rate, vit.drop_path_rate) == (6, 4.0, True, 0.0, 0.05)
    assert (vit.patch_tokens, drop.blocks, drop.score) == (256, (0,), "class_attention")
    assert (augmentation.crop_padding, augmentation.flip, augmentation.erase) == (4, True, 0.1)
    assert (augmentation.rand_ops, augmentation.rand_magnitude) == (2, 7)
    assert (recipe.mixing.mixup_alpha, recipe.mixing.cutmix_alpha, recipe.mixing.cutmix_share) == (0.8, 1.0, 0.5)
    optimisation = recipe.optimisation
    assert (optimisation.lr, optimisation.weight_decay, optimisation.warmup_epochs) == (4e-4, 0.05, 5)
    assert (optimisation.grad_clip, optimisation.label_smoothing, optimisation.ema_decay) == (1.0, 0.03, 0.9999)
    assert recipe.keep(40) is None and recipe.keep(41) == (255,) and recipe.keep(199) == (166,)
    assert recipe.keeps == [recipe.keep(epoch) for epoch in range(200)] and recipe.kept_tokens(0) == 256
    assert recipe.replace(mixup_alpha=0.0, cutmix_alpha=0.0).mixing is None


def test_all_mistakes_are_told_at_once():
    with pytest.raises(RecipeError) as caught:
        Recipe.from_values({"epochs": 0, "lerning_rate": 1.0, "flip": "yes"})
    for name in ("epochs", "lerning_rate", "flip"):
        assert name in str(caught.value)


def test_command_line_values_are_read_as_their_parameters_type(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("epochs: 3\nlr: 1.0e-3\n")
    recipe = Recipe.from_yaml(path, ["lr=4e-4", "flip=false", "subset=1024", "run=mine", "dataset=cifar10"])
    assert (recipe.epochs, recipe.lr, recipe.flip, recipe.subset, recipe.run, recipe.dataset) == (
        3, 4e-4, False, 1024, "mine", "cifar10",
    )  # fmt: skip
    for bad in ("epochs=2.5", "flip=maybe", "epoch=3", "dataset=mnist"):
        with pytest.raises(RecipeError, match=bad.split("=")[0]):
            Recipe.from_yaml(path, [bad])
    with pytest.raises(RecipeError, match="name=value"):
        Recipe.from_yaml(path, ["epochs"])


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_every_value_that_a_setting_can_name_is_read_from_a_command_line(name):
    field = Recipe.model_fields[name]
    named = (False, True) if isinstance(field.default, bool) else get_args(field.annotation)
    for value in (field.default, *named):
        read = Recipe.values_of([f"{name}={value}"])[name]
        assert read == value and type(read) is type(value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parameter_files_load_and_are_named_after_their_run(path):
    recipe = Recipe.from_yaml(path)
    assert recipe.run_name == path.stem
    text = path.read_text()
    assert f"papermill book/{recipe.chapter}.ipynb out.ipynb -f parameters/{path.name}" in text
    assert "# Expected: " in text and "to be measured" not in text


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"drop_shape": "cyclic", "drop_cycle": 3, "drop_tail": 2},
        {"size_stages": "24/28/32 at 60/20/20", "drop_shape": "steps", "drop_stages": ".5/.75/1 at 45/40/15"},
        {"size_stages": "16/32 at 50/50", "drop_blocks": "1, 2", "drop_shares": "1, 1.5", "drop_fate": "fuse"},
    ],
    ids=str,
)
def test_what_every_epoch_keeps_is_what_each_keeps(settings):
    recipe = Recipe(**settings, epochs=23)
    assert recipe.keeps == [recipe.keep(epoch) for epoch in range(23)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parameter_files_mean_the_same_in_a_chapter_and_on_the_command_line(path):
    """The chapters' own defaults differ in drop_final; a file must not depend on which defaults it lands on."""
    values = yaml.safe_load(path.read_text())
    chapter = Recipe.from_yaml(path).chapter
    namespace = {}
    exec(parameters_cell(**({"drop_final": 0.0} if chapter == "baseline" else {})), namespace)
    namespace = {name: value for name, value in namespace.items() if not name.startswith("__")}
    assert Recipe.from_values({**namespace, **values}) == Recipe.from_yaml(path)


def test_published_recipes_are_the_published_ones():
    """The table of the two recipes, cell by cell; the two crossings take the curriculum from the other one."""
    common = {
        "crop_padding": 4, "flip": True, "rand_ops": 2, "lr": 4e-4, "weight_decay": 0.05, "warmup_epochs": 5,
        "epochs": 200, "batch_size": 128, "eval_batch_size": 256, "grad_clip": 1.0, "embed_dim": 192, "depth": 6,
        "num_heads": 6, "mlp_ratio": 4.0, "stem_width": 64, "stem_stride": 2, "qkv_bias": True, "subset": 0,
    }  # fmt: skip
    plain = {"rand_magnitude": 10, "erase": 0.25, "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "label_smoothing": 0.05,
             "dropout": 0.1, "drop_path": 0.1}  # fmt: skip
    rich = {"rand_magnitude": 7, "erase": 0.1, "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "cutmix_share": 0.5,
            "ema_decay": 0.9999, "label_smoothing": 0.03, "dropout": 0.0, "drop_path": 0.05}  # fmt: skip
    drop = {"drop_init": 0.0, "drop_final": 0.35, "drop_start": 40, "drop_end": 140, "drop_gamma": 2.0,
            "drop_block": 0, "drop_hold": True}  # fmt: skip
    none = {"drop_init": 0.0, "drop_final": 0.0}
    for name, parts in {"baseline": (plain, none), "ptd": (plain, drop), "baseline_aug": (rich, none),
                        "ptd_aug": (rich, drop)}.items():  # fmt: skip
        settings = Recipe.from_yaml(ROOT / "parameters" / f"{name}.yaml").settings()
        expected = {**common, **parts[0], **parts[1]}
        assert {key: settings[key] for key in expected} == expected


def test_fingerprint_ignores_places_and_devices_only():
    base = Recipe()
    assert Recipe(device="cpu", out_dir="x", data_dir="y", run="z", download=False).fingerprint == base.fingerprint
    assert Recipe(seed=1).fingerprint != base.fingerprint
    assert Recipe().run_name == f"ptd_shapes_{base.fingerprint}"


def test_command_line_refuses_before_reading_data(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("dataset: cifar100\ndata_dir: /nowhere\ndrop_finl: 0.3\n")
    result = run_module("ptd_core", path)
    assert result.returncode == 2
    assert "did you mean drop_final" in result.stderr
    assert "Traceback" not in result.stderr and result.stderr.count("\n") == 1
