"""Explorers: web pages that hold their data and script, and work with a kernel, without one, and off the network.

The drawing is plain script in `pages/`, one implementation for the live notebook, the saved one and the exported
book; a browser runs it wherever HTML is shown, whereas widgets of a kernel are blank once the kernel is gone.

Shapes: B images, M blocks, H heads, N patch tokens in a grid of G x G, S pixels a side.
"""

import base64
from dataclasses import dataclass

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from ptd_core.cost import Sizes, cost
from ptd_core.data.dataset import Split
from ptd_core.evaluation.attention_maps import attention_maps
from ptd_core.recipe import Recipe
from ptd_core.schedule import DropSchedule
from ptd_core.token_drop import TokenDrop
from ptd_core.views.pages import render
from ptd_core.views.pictures import colour_table, outline_path, png_address, shrink

CURRICULUM = ("init", "final", "start", "end", "gamma", "hold")
PUBLISHED = {f"drop_{name}": getattr(DropSchedule(), name) for name in CURRICULUM} | {"epochs": 200}
WITH_SLIDER = (*(f"drop_{name}" for name in CURRICULUM), "drop_block", "epochs")
NO_TOKEN_DROP = ("drop_path",)  # by its name alone
MAX_RATIO = 95  # percent: where the sliders for drop ratios end, if so many tokens can be dropped
DATA_BYTES = 700_000  # of a saliency page before base64: the page stays below 1 MiB
MAX_IMAGES = 48
SHOWN_SIDE = 128  # pixels; larger images are shown reduced


@dataclass(frozen=True)
class Shown:
    """The images of a saliency page: a split, one name each, and which of the names are true classes."""

    split: Split
    names: list[str]
    known: list[bool]


def schedule_page(recipe: Recipe, num_classes: int) -> str:
    """HTML with sliders for the published curriculum, its cost and the recipe as YAML; starts at the recipe's numbers.

    What else a recipe can do with tokens has no slider: the page and its YAML have the defaults there.
    """
    others = (*WITH_SLIDER, *NO_TOKEN_DROP)
    rest = [name for name in Recipe.model_fields if name.startswith(("drop_", "size_")) and name not in others]
    recipe = recipe.replace(**{name: Recipe.model_fields[name].default for name in rest})
    vit = recipe.vit
    data = {
        "settings": {name: getattr(recipe, name) for name in WITH_SLIDER},
        "recipe": [[name, _yaml_value(value)] for name, value in recipe.settings().items()],
        "patchTokens": vit.patch_tokens,
        "maxRatio": _max_ratio(vit.patch_tokens),
        "maxEpochs": max(2 * recipe.epochs, recipe.drop_end),
        "costOfAll": cost(vit, num_classes).training,
        "costs": [cost_of_kept(vit, num_classes, block) for block in range(vit.depth)],
        "published": PUBLISHED,
    }
    return _page("Schedule explorer", "scheduleExplorer", data, ["schedule.js", "schedule_explorer.js"])


def cost_of_kept(vit: Sizes, num_classes: int, block: int) -> tuple[int, int, int]:
    """(a, b, c) of the training operations per image a + b k + c k^2, when `block` keeps k < N patch tokens.

    The block that drops works linearly in k and attention in later blocks quadratically, so three values give the
    rest, and a page needs no table for each number of tokens. With one patch token nothing can be dropped: all 0.
    """
    if vit.patch_tokens == 1:
        return 0, 0, 0
    one, two, three = (cost(vit, num_classes, TokenDrop(blocks=(block,)), (keep,)).training for keep in (1, 2, 3))
    quadratic = (one - 2 * two + three) // 2
    linear = two - one - 3 * quadratic
    return one - linear - quadratic, linear, quadratic


def saliency_page(recipe: Recipe, shown: Shown, models: dict[str, nn.Module], inputs: Tensor, classes, stamp="") -> str:
    """HTML to choose an image, block, head and drop ratio in, and to set two of the models side by side.

    models: by label, all of the recipe's shape; the first is shown first. inputs: the B images, normalised
    (B, 3, S, S). classes: names. Every model answers with all tokens, as in evaluation.
    """
    vit = recipe.vit
    grid, max_ratio = vit.grid_size, _max_ratio(vit.patch_tokens)
    images = [shrink(image.cpu(), SHOWN_SIDE) for image in shown.split.images]
    masks = shown.split.masks
    epochs = range(recipe.epochs if recipe.chapter == "ptd" else 0)
    data = {
        "run": recipe.run_name,
        "stamp": stamp,
        "images": [png_address(image) for image in images],
        "labels": shown.names,
        "known": shown.known,
        "side": vit.img_size,
        "grid": grid,
        "blocks": vit.depth,
        "heads": vit.num_heads,
        "block": recipe.token_drop.blocks[0],
        "ratio": recipe.drop_final if recipe.chapter == "ptd" else min(0.5, max_ratio),
        "maxRatio": max(max_ratio, recipe.drop_final, recipe.drop_init),
        "epochs": {
            "kept": [recipe.kept_tokens(epoch) for epoch in epochs],
            "ratios": [recipe.schedule.ratio(epoch) for epoch in epochs],
        },
        "colours": colour_table("viridis"),
        "views": [
            _view(label, model, inputs, shown.split.labels, classes, vit.depth) for label, model in models.items()
        ],
    }
    if masks is not None:
        cells = masks.cpu().unflatten(2, (grid, -1)).unflatten(1, (grid, -1))  # (B, G, s, G, s)
        data["objects"] = _packed(cells.sum((2, 4)).flatten(1).numpy(), np.uint16)
        data["pixelsPerToken"] = vit.stride**2
        data["outlines"] = [outline_path(mask) for mask in masks.cpu()]
    parts = ["saliency_data.js", "saliency_images.js", "saliency_picture.js", "saliency_explorer.js"]
    return _page("Saliency explorer", "saliencyExplorer", data, ["schedule.js", *parts])


def images_that_fit(recipe: Recipe, models: int) -> int:
    """How many test images a saliency page with so many models can hold: at most 48, at least 1."""
    vit = recipe.vit
    bytes_each = 2 if vit.patch_tokens <= 256 else 3  # a level and a rank a token
    maps = models * vit.depth * (vit.num_heads + 1) * vit.patch_tokens * bytes_each
    picture = 3 * min(vit.img_size, SHOWN_SIDE) ** 2
    return max(1, min(MAX_IMAGES, DATA_BYTES // (maps + picture)))


def frame(page: str, note: str) -> str:
    """A page inside another document: an iframe of its own styles and names; `note` is HTML that stands below it."""
    title = page.partition("<title>")[2].partition("</title>")[0]
    return render("frame.html.j2", page=page, title=title, note=note)


@torch.no_grad()
def _view(label: str, model: nn.Module, inputs: Tensor, labels: Tensor, classes, depth: int) -> dict:
    """What one model does with the images: maps of every block and head and of their mean, and its answers."""
    was_training = model.training
    probabilities = model.eval()(inputs).softmax(1).cpu()
    model.train(was_training)
    maps = torch.stack([attention_maps(model, inputs, block).flatten(2) for block in range(depth)], 1)  # (B, M, H, N)
    maps = torch.cat([maps.mean(2, keepdim=True), maps], 2).float()
    highest = maps.amax(-1, keepdim=True)
    # Levels are for the eye; the kept tokens come from ranks, because rounded levels have ties that saliency has not.
    order = maps.argsort(dim=-1, descending=True, stable=True)
    best = probabilities.topk(min(3, len(classes)), 1)
    return {
        "label": label,
        "levels": _packed((255 * maps / highest).round().numpy(), np.uint8),
        "order": _packed(order.numpy(), np.uint8 if maps.shape[-1] <= 256 else np.uint16),
        "highest": _rounded(highest.squeeze(-1)),
        "answers": [
            [[classes[number], sure] for number, sure in zip(numbers, row)]
            for numbers, row in zip(best.indices.tolist(), _rounded(best.values))
        ],
        "truth": _rounded(probabilities.gather(1, labels.cpu().clamp(min=0)[:, None]).squeeze(1)),
    }


def _page(title: str, start: str, data: dict, scripts: list[str]) -> str:
    return render("explorer.html.j2", title=title, start=start, data=data, scripts=["page.js", *scripts])


def _max_ratio(patch_tokens: int) -> float:
    """The largest ratio in hundredths, up to 0.95, that still keeps a token: recipes refuse more."""
    return min(MAX_RATIO, 100 - -(-100 // patch_tokens)) / 100


def _yaml_value(value) -> str:
    return yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def _packed(values: np.ndarray, kind) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))).decode()


def _rounded(values: Tensor) -> list:
    return np.round(values.double().numpy(), 5).tolist()
