"""Explorers: web pages that hold their data and script, and work with a kernel, without one, and off the network.

The drawing is plain script in `pages/`, one implementation for the live notebook, the saved one and the exported
book; a browser runs it wherever HTML is shown, whereas widgets of a kernel are blank once the kernel is gone.

Shapes: B images, M blocks, H heads, N patch tokens in a grid of G x G, S pixels a side.
"""

import base64
import json
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from ptd_core.cost import cost
from ptd_core.data.dataset import Split
from ptd_core.model import HybridViT
from ptd_core.recipe import Recipe
from ptd_core.schedule import DropSchedule
from ptd_core.views.maps import attention_maps
from ptd_core.views.pictures import colour_table, outline_path, png_address, shrink

ASSETS = Path(__file__).parent / "pages"
PUBLISHED, PUBLISHED_EPOCHS = DropSchedule(), 200
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
    """HTML with sliders for the curriculum, its cost and the recipe as YAML; starts at the recipe's own curriculum."""
    settings = ("drop_init", "drop_final", "drop_start", "drop_end", "drop_gamma", "drop_hold", "drop_block", "epochs")
    epochs = range(PUBLISHED_EPOCHS)
    return _page(
        "Schedule explorer",
        "scheduleExplorer",
        {
            "settings": {name: getattr(recipe, name) for name in settings},
            "recipe": [[name, _yaml_value(value)] for name, value in recipe.essence().items()],
            "patchTokens": recipe.patch_tokens,
            "maxRatio": _max_ratio(recipe.patch_tokens),
            "maxEpochs": max(2 * recipe.epochs, recipe.drop_end),
            "whole": str(cost(recipe, num_classes).training),
            "newton": [[str(term) for term in newton_terms(recipe, num_classes, b)] for b in range(recipe.depth)],
            "published": {
                "ratios": [PUBLISHED.ratio(epoch) for epoch in epochs],
                "kept": [PUBLISHED.kept(epoch, recipe.patch_tokens) for epoch in epochs],
            },
        },
        ["schedule.js", "schedule_explorer.js"],
    )


def newton_terms(recipe: Recipe, num_classes: int, block: int) -> tuple[int, int, int]:
    """Training operations per image as a function of k < N kept tokens, c(k) = a + b (k - 1) + c (k - 1)(k - 2) / 2.

    The drop block's work is linear in k and that of later blocks quadratic, so three values give the rest exactly.
    """
    at_block = recipe.model_copy(update={"drop_block": block})
    # With one patch token nothing can be dropped, and the values are never asked for.
    values = [cost(at_block, num_classes, min(keep, recipe.patch_tokens)).training for keep in (1, 2, 3)]
    return values[0], values[1] - values[0], values[2] - 2 * values[1] + values[0]


def saliency_page(recipe: Recipe, shown: Shown, models: dict[str, HybridViT], inputs: Tensor, classes, stamp="") -> str:
    """HTML to choose an image, block, head and drop ratio in, and to set two of the models side by side.

    models: by label, all of the recipe's shape; the first is shown first. inputs: the B images, normalised
    (B, 3, S, S). classes: names. Every model answers with all tokens, as in evaluation.
    """
    size, grid = recipe.image_size, recipe.image_size // recipe.stem_stride
    images = [shrink(image.cpu(), SHOWN_SIDE) for image in shown.split.images]
    masks = shown.split.masks
    schedule, epochs = recipe.schedule, range(recipe.epochs)
    data = {
        "run": recipe.run_name,
        "stamp": stamp,
        "images": [png_address(image) for image in images],
        "labels": shown.names,
        "known": shown.known,
        "side": size,
        "grid": grid,
        "blocks": recipe.depth,
        "heads": recipe.num_heads,
        "block": recipe.drop_block,
        "ratio": recipe.drop_final if recipe.chapter == "ptd" else min(0.5, _max_ratio(recipe.patch_tokens)),
        "maxRatio": max(_max_ratio(recipe.patch_tokens), recipe.drop_final, recipe.drop_init),
        "epochs": {
            "kept": [schedule.kept(t, recipe.patch_tokens) for t in epochs] if recipe.chapter == "ptd" else [],
            "ratios": [schedule.ratio(t) for t in epochs] if recipe.chapter == "ptd" else [],
        },
        "colours": colour_table("viridis"),
        "views": [
            _view(label, model, inputs, shown.split.labels, classes, recipe.depth) for label, model in models.items()
        ],
    }
    if masks is not None:
        cells = masks.cpu().unflatten(2, (grid, -1)).unflatten(1, (grid, -1))  # (B, G, s, G, s)
        data["objects"] = _packed(cells.sum((2, 4)).flatten(1).numpy(), np.uint16)
        data["pixelsPerToken"] = recipe.stem_stride**2
        data["outlines"] = [outline_path(mask) for mask in masks.cpu()]
    return _page("Saliency explorer", "saliencyExplorer", data, ["saliency_explorer.js"])


def images_that_fit(recipe: Recipe, models: int) -> int:
    """How many test images a saliency page with so many models can hold: at most 48, at least 1."""
    bytes_each = 2 if recipe.patch_tokens <= 256 else 3  # a level and a rank a token
    maps = models * recipe.depth * (recipe.num_heads + 1) * recipe.patch_tokens * bytes_each
    picture = 3 * min(recipe.image_size, SHOWN_SIDE) ** 2
    return max(1, min(MAX_IMAGES, DATA_BYTES // (maps + picture)))


def frame(page: str, note: str) -> str:
    """A page inside another document: an iframe of its own styles and names, and a line that stands without it."""
    return (
        f'<iframe srcdoc="{escape(page)}" title="{escape(page_title(page))}" '
        'style="width: 100%; height: 720px; border: 0"></iframe>\n'
        f"<p>{note}</p>"
    )


def page_title(page: str) -> str:
    return page.partition("<title>")[2].partition("</title>")[0]


@torch.no_grad()
def _view(label: str, model: HybridViT, inputs: Tensor, labels: Tensor, classes, depth: int) -> dict:
    """What one model says of the images: maps of every block and head and of their mean, and its answers."""
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
    def read(name):
        return (ASSETS / name).read_text(encoding="utf-8")

    script = "\n".join(read(name) for name in ["page.js", *scripts])
    content = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")  # no text in it can end the script
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{read("explorer.css")}</style>
<style id="picture-style">{read("picture.css")}</style>
</head>
<body>
<main></main>
<script type="application/json" id="data">{content}</script>
<script>
{script}
const data = JSON.parse(document.getElementById("data").textContent);
{start}(data, document.querySelector("main"));
fitFrame();
</script>
</body>
</html>
"""


def _max_ratio(patch_tokens: int) -> float:
    """The largest ratio in hundredths, up to 0.95, that still keeps a token: recipes refuse more."""
    return min(MAX_RATIO, 100 - -(-100 // patch_tokens)) / 100


def _yaml_value(value) -> str:
    return yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def _packed(values: np.ndarray, kind) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))).decode()


def _rounded(values: Tensor) -> list:
    return np.round(values.double().numpy(), 5).tolist()
