"""Weights to begin training with: as timm's own loading would have it, or one sentence on what does not fit."""

import dataclasses
import shutil

import pytest
import timm
import torch
from conftest import TINY, Lines, equal
from safetensors.torch import load_file, save_file
from timm.models import load_checkpoint
from timm.models.vision_transformer import checkpoint_filter_fn

from ptd_core.errors import OutputError, RecipeError
from ptd_core.load import load_model
from ptd_core.machine.ranks import Ranks
from ptd_core.recipe import Recipe
from ptd_core.run import execute
from ptd_core.trainer import Trainer
from ptd_core.vits.weights import begin_with

NAME = "vit_tiny_patch16_224"
SIZES = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
ARGS = "patch_size=4, embed_dim=24, depth=2, num_heads=3"
OWN = ("stem_width", "stem_stride", "embed_dim", "depth", "num_heads")
SETTINGS = {name: value for name, value in TINY.items() if name not in OWN} | {
    "model": NAME, "model_args": ARGS, "dropout": 0.0, "drop_path": 0.0, "epochs": 1, "drop_end": 0, "lr": 1e-9,
    "warmup_epochs": 0, "weight_decay": 0.0, "ema_decay": 0.0,
}  # fmt: skip


@pytest.fixture
def tiny_timm(tmp_path):
    return lambda **settings: Recipe.from_values({**SETTINGS, "out_dir": str(tmp_path), "run": "timm", **settings})


def theirs(side=16, classes=10, seed=3, **arguments):
    torch.manual_seed(seed)
    return timm.create_model(NAME, img_size=side, num_classes=classes, **{**SIZES, **arguments})


def saved(path, state):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


def same(model, expected):
    assert equal(model.state_dict(), expected.state_dict())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
def test_as_timm_loads_it(tiny_timm, tiny_shapes, tmp_path, suffix):
    file = saved(tmp_path / f"some{suffix}", theirs().state_dict())
    expected = theirs(seed=4)
    load_checkpoint(expected, file)
    same(Trainer(tiny_timm(weights=file), tiny_shapes).model, expected)


@pytest.mark.parametrize("nest", ["model", "state_dict", "model_ema"])
def test_nested_as_training_scripts_save_it(tiny_timm, tiny_shapes, tmp_path, nest):
    state = {f"module.{name}": value for name, value in theirs().state_dict().items()}
    others = {"model": theirs(seed=9).state_dict()} if nest == "model_ema" else {}
    file = saved(tmp_path / "some.pth", {**others, nest: state, "epoch": 7, "optimizer": {"lr": 0.1}})
    same(Trainer(tiny_timm(weights=file), tiny_shapes).model, theirs())


def test_other_image_and_patch_sizes_are_resampled_as_timm_does(tiny_timm, tiny_shapes, tmp_path):
    for arguments in ({"side": 32}, {"side": 32, "patch_size": 8}):
        source = theirs(**arguments)
        file = saved(tmp_path / "large.pt", source.state_dict())
        expected = theirs(seed=4)
        load_checkpoint(expected, file, filter_fn=checkpoint_filter_fn)
        same(Trainer(tiny_timm(weights=file), tiny_shapes).model, expected)
        assert (source.pos_embed.shape != expected.pos_embed.shape) == ("patch_size" not in arguments)


@pytest.mark.parametrize("classes", [1000, 0])
def test_a_head_for_other_classes_is_drawn_by_the_seed(tiny_timm, tiny_shapes, tmp_path, classes):
    source = theirs(classes=classes)
    file = saved(tmp_path / "some.pt", source.state_dict())
    begun, own = Trainer(tiny_timm(weights=file), tiny_shapes).model, Trainer(tiny_timm(), tiny_shapes).model
    assert torch.equal(begun.head.weight, own.head.weight) and torch.equal(begun.head.bias, own.head.bias)
    source.head = begun.head
    same(begun, source)


def test_weights_in_the_names_of_deit3s_authors(tmp_path):
    vit = Recipe(model="deit3_small_patch16_224", model_args="depth=1, embed_dim=12, num_heads=2", image_size=32).vit
    state = {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
             for name, value in vit.build(5).state_dict().items()}  # fmt: skip
    assert "blocks.0.gamma_1" in state
    vit_there = begin_with(vit.build(5), saved(tmp_path / "deit3.pth", {"model": state}), vit.adapted)
    assert torch.equal(vit_there.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])


def test_a_run_begins_with_an_earlier_run_of_hybrid_vit(tiny, tiny_shapes, tmp_path):
    """On images of another side, which classes it knew being others."""
    first = execute(tiny(epochs=1, drop_end=0), Lines(), dataset=tiny_shapes)
    state = load_file(first.folder / "weights.safetensors")
    file = str(first.folder / "weights.safetensors")
    same(Trainer(tiny(weights=file), tiny_shapes).model, load_model("tiny", str(tmp_path)))
    first.record.model_copy(update={"finished": False}).write(first.folder)  # as while it is trained
    with pytest.raises(RecipeError, match=r"tiny/weights\.safetensors': are of a run that is not finished"):
        Trainer(tiny(weights=file), tiny_shapes)
    other = {**state, "head.weight": torch.ones(3, 16), "head.bias": torch.ones(3)}
    small = tiny(weights=saved(tmp_path / "three.safetensors", other), image_size=8)
    model = begin_with(small.vit.build(10), small.weights, small.vit.adapted)
    assert model.pos_embed.shape == (1, 17, 16) and model.head.weight.shape == (10, 16)
    assert torch.equal(model.stem[0].weight, state["stem.0.weight"])
    assert torch.equal(model.stem[1].running_mean, state["stem.1.running_mean"])
    assert torch.equal(model.pos_embed[:, 0], state["pos_embed"][:, 0])


def test_the_files_digest_is_of_the_settings_and_its_place_is_not(tiny_timm, tiny_shapes, tmp_path):
    plain = tiny_timm()
    file = tmp_path / "some.pt"
    saved(file, theirs().state_dict())
    recipe = tiny_timm(weights=str(file))
    done = execute(recipe, Lines(), dataset=tiny_shapes)
    digest = done.record.recipe["weights"]
    assert digest.startswith("sha256:") and str(tmp_path) not in str(done.record.recipe)
    moved = shutil.copy(file, tmp_path / "moved.pt")
    again = tiny_timm(weights=str(moved))
    assert again.settings() == recipe.settings() and again.fingerprint == recipe.fingerprint != plain.fingerprint
    lines = Lines()
    execute(again, lines, dataset=tiny_shapes)
    assert any("finished" in line for line in lines.printed)
    recorded = Recipe.from_values(done.record.recipe)  # the file is not needed to load what came of it
    file.unlink()
    assert recorded.settings() == done.record.recipe
    same(load_model("timm", str(tmp_path)).cpu(), done.model.cpu())
    with pytest.raises(RecipeError, match="is the digest of a file; training begins with the file itself"):
        Trainer(recorded, tiny_shapes)
    saved(moved, theirs(seed=8).state_dict())
    with pytest.raises(OutputError, match=rf"weights: 'sha256:.*' asked for, '{digest}' there"):
        execute(tiny_timm(weights=str(moved)), Lines(), dataset=tiny_shapes)
    with pytest.raises(OutputError, match=rf"weights: the default asked for, '{digest}' there"):
        execute(plain, Lines(), dataset=tiny_shapes)


def test_settings_of_hybrid_runs_are_what_they_were():
    """Runs from before these parameters have none of them in run.json."""
    assert not {"model", "model_args", "weights"} & set(Recipe().settings())
    assert Recipe().fingerprint == "64786c"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: theirs(depth=3).state_dict(), ["it has also blocks.2.norm1.weight", "and 9 more"]),
        (lambda: theirs(depth=1).state_dict(), ["the file lacks blocks.1.norm1.weight", "and 9 more"]),
        (lambda: theirs(embed_dim=48).state_dict(), ["shapes: cls_token (1, 1, 48) in place of (1, 1, 24)"]),
        (lambda: theirs(reg_tokens=2).state_dict(), ["it has also reg_token"]),
        (lambda: Recipe(**TINY).vit.build(10).state_dict(), ["lacks patch_embed.proj.weight", "stem.0.weight"]),
        (lambda: {"epoch": 3}, ["holds no state dict"]),
        (lambda: {}, ["holds no state dict"]),
        (lambda: {"model": Lines}, ["cannot be read as weights", "weights_only"]),
    ],
)  # fmt: skip
def test_other_architectures_are_refused_with_the_difference(tiny_timm, tiny_shapes, tmp_path, content, words):
    file = saved(tmp_path / "some.pt", content())
    with pytest.raises(RecipeError) as caught:
        Trainer(tiny_timm(weights=file), tiny_shapes)
    for word in [f"weights = '{file}'", *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused_before_data_is_read(tiny, tiny_timm, tmp_path, monkeypatch):
    class Read(Exception):
        pass

    def read(self):
        raise Read

    monkeypatch.setattr(Recipe, "load_dataset", read)
    file = saved(tmp_path / "some.pt", theirs(depth=3).state_dict())
    for recipe in (tiny_timm(weights=file), tiny(weights=file)):
        with pytest.raises(RecipeError, match="another architecture"):
            execute(recipe, Lines())
        assert not (tmp_path / "runs").exists()
    with pytest.raises(RecipeError, match="does not divide among 3 processes"):
        execute(tiny(batch_size=32), Lines(), ranks=Ranks(0, 3))
    headless = {name: value for name, value in theirs().state_dict().items() if not name.startswith("head.")}
    own = tiny().vit
    fitting = [
        (tiny_timm, theirs().state_dict()), (tiny_timm, theirs(classes=7).state_dict()), (tiny_timm, headless),
        (tiny_timm, theirs(side=32).state_dict()), (tiny, own.build(7).state_dict()),
        (tiny, dataclasses.replace(own, img_size=32).build(7).state_dict()),
    ]  # fmt: skip
    for number, (settings, state) in enumerate(fitting):
        with pytest.raises(Read):
            execute(settings(weights=saved(tmp_path / f"{number}.safetensors", state)), Lines())


def test_timms_weights_are_none_of_hybrid_vit(tiny, tiny_shapes, tmp_path):
    file = saved(tmp_path / "some.pt", theirs().state_dict())
    with pytest.raises(RecipeError, match=r"another architecture than this HybridViT: the file lacks stem.0.weight"):
        Trainer(tiny(weights=file), tiny_shapes)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda _: b"", lambda _: b"\0" * 99])
def test_damaged_files_are_refused(tiny_timm, tiny_shapes, tmp_path, suffix, damage):
    file = tmp_path / f"some{suffix}"
    saved(file, theirs().state_dict())
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RecipeError, match=r"some\..*: cannot be read as weights"):
        Trainer(tiny_timm(weights=str(file)), tiny_shapes)


def test_absent_files_and_other_kinds_are_refused_with_the_recipe(tmp_path):
    for name, word in (("none.pt", "be a file that can be read.*No such file"), ("some.npz", r"end in \.safetensors")):
        with pytest.raises(RecipeError, match=f"weights must {word}"):
            Recipe.from_values({"weights": str(tmp_path / name)})
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(RecipeError, match="weights must be a file that can be read"):
        Recipe.from_values({"weights": str(tmp_path / "folder.pt")})


LONG = f"{ARGS}, "


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "vit_tinny_patch16_224"}, ["has no model vit_tinny", "did you mean vit_tiny_patch16_224?"]),
        ({"model": "hf-hub:somebody/vit"}, ["model should match"]),
        ({"model": "swin_tiny_patch4_window7_224"}, ["SwinTransformer cannot drop tokens", "need a whole grid"]),
        ({"model": "resnet18"}, ["ResNet cannot drop tokens", "no plain sequence of tokens"]),
        ({"model_args": "patch_sise=4"}, ["has no argument patch_sise; did you mean patch_size?"]),
        ({"model_args": "img_size=32"}, ["img_size is set by image_size"]),
        ({"model_args": "pretrained=true"}, ["has no argument pretrained"]),
        ({"model_args": "patch_size 4"}, ["model_args must be arguments such as patch_size=4"]),
        ({"model_args": LONG + "depth=3"}, ["each once"]),
        ({"model_args": "embed_dim=100"}, ["timm cannot build", "divisible by num_heads"]),
        ({"model_args": LONG + "class_token=false, global_pool=avg"}, ["no class token", "the score class_attention"]),
        ({"model_args": LONG + "reg_tokens=1", "drop_method": "tome"}, ["merging keeps the class token alone"]),
        ({"model": "hybrid_vit"}, ["model = 'hybrid_vit'", "are arguments of a timm model"]),
        ({"stem_width": 8}, ["stem_width = 8", "of hybrid_vit alone", "model_args"]),
        ({"image_size": 18}, ["image_size = 18", "a multiple of the 4 pixels of a patch"]),
        ({"size_stages": "10/16 at 1/1"}, ["10 must be a multiple of the 4 pixels of a patch up to image_size"]),
        ({"drop_block": 2}, ["drop_block = 2", "model_args", "from 0 to 1"]),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_by_name(values, words):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_values({**SETTINGS, **values})
    for word in words:
        assert word in str(caught.value)
