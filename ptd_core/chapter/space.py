"""What the chapter on the space of token reduction shows: methods, one image under each, and trained points."""

import math
from collections.abc import Iterable
from dataclasses import replace

from IPython.display import Markdown
from matplotlib.figure import Figure
from torch import Tensor

from ptd_core.chapter.notebook import table
from ptd_core.cost import run_training_cost
from ptd_core.data.dataset import Split
from ptd_core.errors import RecipeError
from ptd_core.evaluation import methods as published
from ptd_core.evaluation.methods import keep_of
from ptd_core.evaluation.provenance import GONE, provenance
from ptd_core.evaluation.token_maps import comparable_scores, has_class_token, token_maps
from ptd_core.machine.randomness import seeded, torch_seed
from ptd_core.recipe import Recipe
from ptd_core.rivals.rival import Rival
from ptd_core.run import Run
from ptd_core.saliency import kept_mask, object_coverage
from ptd_core.token_drop import Keep, TokenDrop
from ptd_core.tokens.given import Oracle
from ptd_core.views.choosing import choices_figure, points_figure, scores_figure, shares_figure
from ptd_core.views.dropping import score_name
from ptd_core.views.provenance import provenance_figure
from ptd_core.views.space import AXES, axis_rows, method_name
from ptd_core.views.style import save_figure

DRAWS = 3  # pictures of what is drawn at random


def methods(recipe: Recipe) -> dict[str, Recipe]:
    """The published methods on the model and data of a recipe; says which of them these cannot have."""
    refused: dict[str, str] = {}
    found = published.methods(recipe, refused=refused)
    for name, reason in refused.items():
        print(f"left out: {method_name(name)} ({reason})")
    return found


def axes_table(found: dict[str, Recipe], classes: int) -> Markdown:
    """Methods x axes, computed from their parameter files."""
    header = ["method", *AXES, "blocks here", "a step on half of the tokens, predicted"]
    return table(header, axis_rows(found, classes, keep_of))


def one_image(run: Run, number: int) -> Split:
    """A test image by its number in the fixed, class-balanced order in which figures show them."""
    split = run.trainer.test.part(number + 1)
    masks = None if split.masks is None else split.masks[-1:]
    return Split(split.images[-1:], split.labels[-1:], masks)


def scores_of(run: Run, shown: Split, block: int) -> dict[str, Tensor]:
    """What a run's model says of images by each score that can be asked, with all tokens in a block: (B, G, G) each."""
    inputs = run.trainer.normalise(shown.images.float() / 255)
    names = comparable_scores(has_class_token(run.model))
    found = {name: _scores(run, name, block, inputs) for name in [*names, "centre", "random"]}
    if shown.masks is not None:
        objects = Oracle(run.recipe.vit.stride)(inputs, shown.masks.to(inputs.device))
        found["oracle"] = objects.unflatten(1, found["random"].shape[1:]).cpu()
    return found


def scores(run: Run, shown: Split, block: int, keep: int) -> Figure:
    """`scores_of` one image as maps, and what each keeps; also saved."""
    return _saved(run, "scores", scores_figure(shown, scores_of(run, shown, block), keep))


def shares(run: Run, block: int, count: int = 500) -> Figure | Markdown:
    """How much of the objects each score keeps, on a part of the test images; a sentence where nobody knows."""
    shown = run.trainer.test.part(count)
    if shown.masks is None:
        return Markdown(f"*{run.dataset.name}* does not show where its objects are; *shapes* does.")
    return _saved(run, "shares", shares_figure(scores_of(run, shown, block), shown.masks.cpu(), run.stamp))


def choices(run: Run, shown: Split, policy: TokenDrop, keep: Keep) -> Figure:
    """What each choice keeps of one image in the policy's block: its top scores, draws by them, a spread; saved."""
    inputs = run.trainer.normalise(shown.images.float() / 255)
    policy = replace(policy, choice="top", fate="discard", until=None)
    wanted = {"top": policy}
    wanted |= {f"sample, draw {draw + 1}": replace(policy, choice="sample") for draw in range(DRAWS)}
    wanted["greedy"] = replace(policy, score="distance", choice="greedy")
    kept = {}
    with seeded(torch_seed(run.recipe.seed, 0, "maps")):
        for name, one in wanted.items():
            kept[name] = token_maps(run.model, one, keep, inputs)[-1].kept_BGG
    return _saved(run, "choices", choices_figure(shown, kept))


def fates(run: Run, shown: Split, found: dict[str, Recipe]) -> Figure:
    """What each method makes of one image when half of its tokens are left after the last drop; also saved."""
    inputs = run.trainer.normalise(shown.images.float() / 255)
    drawn, titles = {}, {}
    with seeded(torch_seed(run.recipe.seed, 0, "maps")):
        for name, recipe in found.items():
            network = recipe.token_drop.network(run.model, run.model).to(inputs.device)
            one = provenance(network, inputs, keep_of(recipe))
            drawn[method_name(name)], titles[method_name(name)] = one, _title(recipe, one.computed, one.rest)
    return _saved(run, "methods", provenance_figure(shown.images[0], drawn, titles))


def _title(recipe: Recipe, computed: int, rest: str) -> str:
    blocks, tokens = recipe.token_drop.blocks, recipe.vit.patch_tokens
    last = recipe.vit.depth - 1 if isinstance(recipe.token_drop, Rival) and rest != GONE else blocks[-1]
    last = recipe.vit.depth - 1 if recipe.drop_method == "tome" else last
    untrained = " (untrained)" if recipe.drop_method == "dynamicvit" else ""
    return f"{computed} of {tokens}, block {last}{untrained}"


def points(recipe: Recipe, scores: Iterable[str]) -> dict[str, Recipe]:
    """Runs to compare: the recipe with all tokens, and with each of the scores; says which it cannot have."""
    still = {"drop_init": 0.0, "drop_final": 0.0, "drop_shape": "polynomial", "drop_stages": "", "drop_cycle": 0}
    found = {"all tokens": recipe.replace(run=f"{recipe.run_name}_all_tokens", **still)}
    for score in scores:
        try:
            found[score] = recipe.replace(run=f"{recipe.run_name}_{score}", drop_score=score)
        except RecipeError as error:
            print(f"left out: {score_name(score)} ({error})")
    return found


def compared(runs: dict[str, Run], count: int = 500) -> Figure:
    """The trained points: prints a line each, and shows accuracy beside the object's share and the predicted speed."""
    found = {}
    for name, run in runs.items():
        recipe, result = run.recipe, run.record.results
        some, whole = run_training_cost(
            recipe.vit, len(run.dataset.classes), recipe.token_drop, recipe.keeps, recipe.sides
        )
        found[name] = result.test_accuracy, _share(run, count), whole / some
        known = "" if math.isnan(found[name][1]) else f", {found[name][1]:5.1f} % of the objects kept"
        print(f"{score_name(name):16} {result.test_accuracy:6.2f} % of {len(run.dataset.test)} test images{known}, "
              f"{whole / some:.3f}x predicted")  # fmt: skip
    first = next(iter(runs.values()))
    return _saved(first, "points", points_figure(found, 100 / len(first.dataset.classes), first.stamp))


def _share(run: Run, count: int) -> float:
    """The share (%) of the objects that a run's last epoch with fewer tokens keeps, by its own score; NaN: unknown."""
    shown, recipe = run.trainer.test.part(count), run.recipe
    if shown.masks is None:
        return math.nan
    keep = next((keep for keep in reversed(recipe.keeps) if keep), None)
    if keep is None:
        return 100.0
    name, block = recipe.drop_score, recipe.token_drop.blocks[-1]
    inputs = run.trainer.normalise(shown.images.float() / 255)
    if name == "oracle":
        return 100 * object_coverage(kept_mask(scores_of(run, shown, block)["oracle"], keep[-1]), shown.masks)
    with seeded(torch_seed(recipe.seed, 0, "maps")):
        kept = token_maps(run.model, recipe.token_drop, keep, inputs)[-1].kept_BGG
    return 100 * object_coverage(kept, shown.masks.cpu())


def _scores(run: Run, name: str, block: int, inputs: Tensor) -> Tensor:
    with seeded(torch_seed(run.recipe.seed, 0, "maps")):
        return token_maps(run.model, TokenDrop((block,), name), None, inputs)[0].scores_BGG


def _saved(run: Run, name: str, figure: Figure) -> Figure:
    save_figure(figure, run.folder / f"space_{name}.png")
    return figure
