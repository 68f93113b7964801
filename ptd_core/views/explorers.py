"""Explorers: web pages that hold their data and script, and work with a kernel, without one, and off the network.

The drawing is plain script in `pages/`, one implementation for the live notebook, the saved one and the exported
book; a browser runs it wherever HTML is shown, whereas widgets of a kernel are blank once the kernel is gone.

Shapes: B images, N patch tokens in a grid of G x G, S pixels a side.
"""

from dataclasses import dataclass

import numpy as np
import yaml
from torch import Tensor, nn

from ptd_core.data.dataset import Split
from ptd_core.evaluation.token_maps import comparable_scores, grid_of, has_class_token
from ptd_core.recipe import Recipe
from ptd_core.schedule import DropSchedule
from ptd_core.token_drop import TokenDrop
from ptd_core.views.dropping import Dropping, score_name, score_unit
from ptd_core.views.explored import bytes_of_view, keep_alone, packed, stops_of, view_of
from ptd_core.views.pages import render
from ptd_core.views.pictures import colour_table, outline_path, png_address, shrink

CURRICULUM = ("init", "final", "start", "end", "gamma", "hold")
PUBLISHED = {f"drop_{name}": getattr(DropSchedule(), name) for name in CURRICULUM} | {"epochs": 200}
WITH_SLIDER = (*(f"drop_{name}" for name in CURRICULUM), "drop_block", "epochs")
MAX_RATIO = 95  # percent: where the sliders for drop ratios end, if so many tokens can be dropped
DATA_BYTES = 680_000  # of a saliency page before base64: the page stays below 1 MiB
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

    What else a recipe can do with tokens has no slider: the page and its YAML have the defaults there, which the page
    says; but for the score, which stays the recipe's own where the model has no class token to ask.
    """
    others = (*WITH_SLIDER, *(() if _has_class_token(recipe) else ("drop_score",)))
    rest = [name for name in Recipe.token_settings() if name not in others]
    whole, recipe = recipe, recipe.replace(**{name: Recipe.model_fields[name].default for name in rest})
    vit = recipe.vit
    # Weights to begin with stand in the settings as their digest, with which no run can begin.
    yaml = recipe.settings() | ({"weights": recipe.weights} if recipe.weights else {})
    data = {
        "settings": {name: getattr(recipe, name) for name in WITH_SLIDER},
        "recipe": [[name, _yaml_value(value)] for name, value in yaml.items()],
        "leftOut": [name for name in rest if getattr(whole, name) != getattr(recipe, name)],
        "patchTokens": vit.patch_tokens,
        "maxRatio": _max_ratio(vit.patch_tokens),
        "maxEpochs": max(2 * recipe.epochs, recipe.drop_end),
        "costOfAll": recipe.cost(num_classes).training,
        "costs": [cost_of_kept(recipe, num_classes, block) for block in range(vit.depth)],
        "published": PUBLISHED,
    }
    return _page("Schedule explorer", "scheduleExplorer", data, ["schedule.js", "schedule_explorer.js"])


def _has_class_token(recipe: Recipe) -> bool:
    try:
        recipe.vit.check(TokenDrop())
    except ValueError:
        return False
    return True


def cost_of_kept(recipe: Recipe, num_classes: int, block: int) -> tuple[int, int, int]:
    """(a, b, c) of the training operations per image a + b k + c k^2, when `block` keeps k < N patch tokens.

    The block that drops works linearly in k and attention in later blocks quadratically, so three values give the
    rest, and a page needs no table for each number of tokens. With one patch token nothing can be dropped: all 0.
    """
    if recipe.vit.patch_tokens == 1:
        return 0, 0, 0
    there = recipe.replace(drop_block=block)
    one, two, three = (there.cost(num_classes, (keep,)).training for keep in (1, 2, 3))
    quadratic = (one - 2 * two + three) // 2
    linear = two - one - 3 * quadratic
    return one - linear - quadratic, linear, quadratic


def saliency_page(
    dropping: Dropping,
    shown: Shown,
    models: dict[str, nn.Module],
    inputs: Tensor,
    classes,
    stamp: str = "",
    given: dict[str, Tensor] | None = None,
) -> str:
    """HTML to choose an image, score, block, head and drop ratio in, and to set two of the models side by side.

    dropping: how the run drops tokens. models: by label, HybridViT or timm's, all of one shape; the first is shown
    first. inputs: the B images, normalised (B, 3, S, S). classes: names. given: for each model the score of every patch
    token (B, N), if the run's is one of `saliency.GIVEN`; without it that score is left out. Every model answers with
    all tokens, as in evaluation.
    """
    first = next(iter(models.values()))
    grid, blocks = grid_of(first, inputs), len(first.blocks)
    tokens, side = grid * grid, shown.split.images.shape[-1]
    max_ratio, own = max(_max_ratio(tokens), *dropping.ratios, 0), dropping.own
    scores = comparable_scores(has_class_token(first), own and own.score, bool(given))
    stops = stops_of(dropping, tokens) if own and own.score in scores else []
    data = {
        "run": dropping.name,
        "stamp": stamp,
        "about": dropping.sentence,
        "images": [png_address(shrink(image.cpu(), SHOWN_SIDE)) for image in shown.split.images],
        "labels": shown.names,
        "known": shown.known,
        "side": side,
        "grid": grid,
        "blocks": blocks,
        "heads": first.blocks[0].attn.num_heads,
        "scores": [
            {"name": score_name(score), "unit": score_unit(score), "heads": score == "class_attention"}
            for score in scores
        ],
        "block": dropping.policy.blocks[0] if dropping.policy else 0,
        "inRun": {"blocks": own.blocks, "stops": [stop.numbers for stop in stops]} if stops else None,
        "ratio": min(dropping.ratio, max_ratio),
        "maxRatio": max_ratio,
        "epochs": {
            "kept": [
                kept if not stops else keep_alone(ratio, tokens) for kept, ratio in zip(dropping.kept, dropping.ratios)
            ],
            "ratios": dropping.ratios,
        },
        "colours": colour_table("viridis"),
        "views": [
            view_of(label, vit, inputs, shown.split.labels, classes, scores, own, stops, (given or {}).get(label))
            for label, vit in models.items()
        ],
    }
    if shown.split.masks is not None:
        cells = shown.split.masks.cpu().unflatten(2, (grid, -1)).unflatten(1, (grid, -1))  # (B, G, s, G, s)
        data["objects"] = packed(cells.sum((2, 4)).flatten(1).numpy(), np.uint16)
        data["pixelsPerToken"] = (side // grid) ** 2
        data["outlines"] = [outline_path(mask) for mask in shown.split.masks.cpu()]
    parts = ["saliency_data.js", "saliency_images.js", "saliency_picture.js", "saliency_explorer.js"]
    return _page("Saliency explorer", "saliencyExplorer", data, ["schedule.js", *parts])


def images_that_fit(recipe: Recipe, models: int) -> int:
    """How many test images a saliency page with so many models of a recipe can hold: at most 48, at least 1."""
    vit, dropping = recipe.vit, Dropping.of(recipe)
    scores = comparable_scores(True, dropping.own and dropping.own.score, given=True)
    stops = stops_of(dropping, vit.patch_tokens)
    bytes_each = models * bytes_of_view(
        vit.patch_tokens, vit.depth, vit.num_heads, len(scores), len(stops) * len(recipe.token_drop.blocks)
    )
    picture = 3 * min(vit.img_size, SHOWN_SIDE) ** 2
    return max(1, min(MAX_IMAGES, DATA_BYTES // (bytes_each + picture)))


def frame(page: str, note: str) -> str:
    """A page inside another document: an iframe of its own styles and names; `note` is HTML that stands below it."""
    title = page.partition("<title>")[2].partition("</title>")[0]
    return render("frame.html.j2", page=page, title=title, note=note)


def _page(title: str, start: str, data: dict, scripts: list[str]) -> str:
    return render("explorer.html.j2", title=title, start=start, data=data, scripts=["page.js", *scripts])


def _max_ratio(patch_tokens: int) -> float:
    """The largest ratio in hundredths, up to 0.95, that still keeps a token: recipes refuse more."""
    return min(MAX_RATIO, 100 - -(-100 // patch_tokens)) / 100


def _yaml_value(value) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).split("\n")[0]  # in one line
