"""What the chapter on the space of token reduction shows: methods, one image under each, and trained points."""

import math
from collections.abc import Iterable

from IPython.display import Markdown
from matplotlib.figure import Figure
from torch import Tensor

from ptd_core.chapter.given import maps_of
from ptd_core.chapter.notebook import table
from ptd_core.data.dataset import Split
from ptd_core.errors import RecipeError
from ptd_core.evaluation import methods as published
from ptd_core.evaluation.methods import keep_of
from ptd_core.evaluation.policies import NO_DROP
from ptd_core.evaluation.provenance import Provenance, provenance
from ptd_core.evaluation.token_maps import comparable_scores, has_class_token
from ptd_core.machine.randomness import seeded, torch_seed
from ptd_core.recipe import Recipe
from ptd_core.run import Run
from ptd_core.saliency import object_coverage
from ptd_core.token_drop import TokenDrop
from ptd_core.tokens.given import Oracle
from ptd_core.views.choosing import choices_figure, points_figure, scores_figure, shares_figure
from ptd_core.views.dropping import Dropping, score_name
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
    names = [*comparable_scores(has_class_token(run.model)), "centre", "random"]
    found = {name: maps_of(run, TokenDrop((block,), name), None, shown)[0].scores_BGG for name in names}
    if shown.masks is not None:
        objects = Oracle(run.recipe.vit.stride)(shown.images, shown.masks)
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


def choices(run: Run, shown: Split, score: str, block: int, keep: int) -> Figure:
    """What each choice keeps of one image in a block: the top by a score, draws by it, tokens that spread; saved."""
    top = maps_of(run, TokenDrop((block,), score), (keep,), shown)[0].kept_BGG
    kept = {f"top, by\n{score_name(score)}": top}
    draws = maps_of(run, TokenDrop((block,), score, "sample"), (keep,), _repeated(shown, DRAWS))[0].kept_BGG
    kept |= {f"drawn by it,\n{number + 1}": draw.unsqueeze(0) for number, draw in enumerate(draws)}
    kept["greedy"] = maps_of(run, TokenDrop((block,), "distance", "greedy"), (keep,), shown)[0].kept_BGG
    return _saved(run, "choices", choices_figure(shown, kept))


def _repeated(shown: Split, times: int) -> Split:
    return Split(shown.images.repeat(times, 1, 1, 1), shown.labels.repeat(times))


def fates(run: Run, shown: Split, found: dict[str, Recipe]) -> Figure:
    """What each method makes of one image when half of its tokens are left after the last drop; also saved.

    Says which method cannot leave about half of so few tokens.
    """
    inputs = run.trainer.normalise(shown.images.float() / 255)
    drawn, titles = {}, {}
    with seeded(torch_seed(run.recipe.seed, 0, "maps")):
        for name, recipe in found.items():
            keep = keep_of(recipe)
            if keep is None:
                print(f"left out: {method_name(name)} keeps all {recipe.vit.patch_tokens} tokens or fewer than half")
                continue
            network = recipe.token_drop.network(run.model, run.model).to(inputs.device)
            one = provenance(network, inputs, keep)
            drawn[method_name(name)], titles[method_name(name)] = one, _title(recipe, one)
    return _saved(run, "methods", provenance_figure(shown.images[0], drawn, titles))


def _title(recipe: Recipe, one: Provenance) -> str:
    drop = recipe.token_drop
    last = recipe.vit.depth - 1 if recipe.drop_method in ("tome", "evo_vit") else drop.blocks[-1]
    untrained = " (untrained)" if recipe.drop_method == "dynamicvit" else ""
    return f"{one.computed} of {recipe.vit.patch_tokens}, block {last}{untrained}"


def points(recipe: Recipe, scores: Iterable[str]) -> dict[str, Recipe]:
    """Runs to compare: the recipe with all tokens, and with each of the scores, its own among them; says which it
    cannot have."""
    found = {"all tokens": recipe.replace(run=f"{recipe.run_name}_all_tokens", **NO_DROP)}
    own = recipe.drop_method == "token_drop"
    for score in dict.fromkeys([*([recipe.drop_score] if own else []), *scores]):
        values = {"run": f"{recipe.run_name}_{score}", "drop_score": score, "drop_method": "token_drop"}
        if score != recipe.drop_score:
            greedy = recipe.drop_choice == "greedy"
            values |= {"drop_score_block": -1, "drop_choice": "top" if greedy else recipe.drop_choice}
        try:
            found[score] = recipe.replace(**values)
        except RecipeError as error:
            print(f"left out: {score_name(score)} ({error})")
    return found


def compared(runs: dict[str, Run], count: int = 500) -> Figure:
    """The trained points: prints a line each, and shows accuracy beside the object's share and the predicted speed."""
    found = {}
    for name, run in runs.items():
        result, faster = run.record.results, run.record.model.predicted_speedup
        found[name] = result.test_accuracy, _share(run, count), faster
        known = "" if math.isnan(found[name][1]) else f", {found[name][1]:5.1f} % of the objects kept"
        print(f"{score_name(name):16} {result.test_accuracy:6.2f} % of {len(run.dataset.test)} test images{known}, "
              f"{faster:.3f}x predicted")  # fmt: skip
    first = next(iter(runs.values()))
    _, *where = first.stamp.split(" \u00b7 ")
    stamp = " \u00b7 ".join([f"{len(runs)} runs, n = 1 each, seed {first.recipe.seed}", *where])
    return _saved(first, "points", points_figure(found, 100 / len(first.dataset.classes), stamp))


def _share(run: Run, count: int) -> float:
    """The share (%) of the objects that a run's last epoch with fewer tokens keeps, as it chooses; NaN: unknown."""
    shown = run.trainer.test.part(count)
    if shown.masks is None:
        return math.nan
    dropping = Dropping.of(run.recipe)
    keep = dropping.policy and dropping.keep_at(dropping.ratio)
    if not keep:
        return 100.0
    return 100 * object_coverage(maps_of(run, dropping.own, keep, shown)[-1].kept_BGG, shown.masks.cpu())


def _saved(run: Run, name: str, figure: Figure) -> Figure:
    save_figure(figure, run.folder / f"space_{name}.png")
    return figure
