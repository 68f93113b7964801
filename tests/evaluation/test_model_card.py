"""The folder that a finished run leaves for timm and the hub: their own readers load it, and it says what was run."""

import copy
import json

import huggingface_hub
import pytest
import timm
import torch
from conftest import TINY, Lines

from ptd_core.evaluation.model_card import ModelCard
from ptd_core.recipe import Recipe
from ptd_core.run import execute

TIMM = {"model": "vit_tiny_patch16_224", "model_args": "patch_size=4,depth=2,embed_dim=16,num_heads=2,reg_tokens=1"}
HYBRID = ("stem_width", "stem_stride", "embed_dim", "depth", "num_heads")


@pytest.fixture(scope="module", params=["hybrid_vit", "timm"])
def done(request, tmp_path_factory, tiny_shapes):
    settings = {**TINY, "epochs": 1, "drop_end": 0}
    if request.param == "timm":
        settings = {name: value for name, value in settings.items() if name not in HYBRID} | TIMM
    recipe = Recipe(**settings, out_dir=str(tmp_path_factory.mktemp("card")), run="tiny")
    return execute(recipe, Lines(), dataset=tiny_shapes)


def logits(model):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(images)


def test_timm_loads_the_folder(done):
    model = timm.create_model(f"local-dir:{done.folder / 'model'}", pretrained=True)
    torch.testing.assert_close(logits(model), logits(done.model))
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 16, 16) and config["crop_pct"] == 1.0
    assert config["mean"] == pytest.approx(done.dataset.mean) and config["std"] == pytest.approx(done.dataset.std)
    assert config["interpolation"] == "bicubic"
    assert tuple(model.pretrained_cfg["label_names"]) == done.dataset.classes
    assert sum(p.numel() for p in model.parameters()) == done.record.model.parameters


def test_timm_makes_a_new_head_for_other_classes(done):
    model = timm.create_model(f"local-dir:{done.folder / 'model'}", pretrained=True, num_classes=3)
    assert logits(model).shape == (4, 3)
    theirs, ours = (vit.state_dict() for vit in (model, done.model))
    assert all(torch.equal(theirs[name], value) for name, value in ours.items() if not name.startswith("head."))


def test_timm_loads_the_folder_for_images_of_another_size(done):
    model = timm.create_model(f"local-dir:{done.folder / 'model'}", pretrained=True, img_size=32)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = copy.deepcopy(done.model).eval()  # HybridViT interpolates its positions for every such image
    if done.recipe.model != "hybrid_vit":
        expected.set_input_size(32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), expected(images))


def test_timm_loads_the_weights_alone(done):
    config = json.loads((done.folder / "model" / "config.json").read_text())
    for file in (done.folder / "weights.safetensors", done.folder / "model" / "model.safetensors"):
        model = timm.create_model(
            config["architecture"], checkpoint_path=str(file), num_classes=config["num_classes"], **config["model_args"]
        )
        torch.testing.assert_close(logits(model), logits(done.model))


def test_the_hubs_own_reader_finds_what_the_card_says(done):
    card = huggingface_hub.ModelCard.load(done.folder / "model" / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("timm", "image-classification")
    assert card.data.metrics == ["accuracy"] and "timm" in card.data.tags
    (result,) = card.data.eval_results
    assert (result.task_type, result.dataset_name, result.metric_type) == ("image-classification", "shapes", "accuracy")
    assert result.metric_value == pytest.approx(done.record.results.test_accuracy / 100, abs=1e-6)
    assert f"{done.record.results.test_accuracy:.2f} %" in card.text and "epochs: 1" in card.text
    assert ("import ptd_core" in card.text) is (done.recipe.model == "hybrid_vit")


def test_data_sets_of_the_hub_are_named(done):
    data = {"architecture": "x", "arguments": {}, "features": 1, "first_conv": "a", "classifier": "b", "image_size": 32,
            "classes": ("a", "ü\udcff"), "mean": (0.5,) * 3, "std": (0.5,) * 3}  # fmt: skip
    named, unnamed = (ModelCard(dataset=name, **data) for name in ("cifar100", "folder"))
    assert huggingface_hub.ModelCard(named.readme(done.record)).data.datasets == ["uoft-cs/cifar100"]
    assert huggingface_hub.ModelCard(unnamed.readme(done.record)).data.datasets is None
    assert json.loads(json.dumps(named.config()))["label_names"] == ["a", "ü\udcff"]  # bytes that are no text


def test_the_weights_lie_on_the_disk_once(done):
    weights, shared = done.folder / "weights.safetensors", done.folder / "model" / "model.safetensors"
    assert weights.read_bytes() == shared.read_bytes()
    assert weights.stat().st_ino == shared.stat().st_ino
    assert sorted(path.name for path in shared.parent.iterdir()) == ["README.md", "config.json", "model.safetensors"]
