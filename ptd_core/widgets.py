"""Explorers: sliders around the static figures of `figures` and `maps`. They need a live kernel."""

from collections.abc import Callable

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure

from ptd_core.cost import run_training_cost
from ptd_core.figures import drop_figure, new_figure
from ptd_core.maps import attention_maps, first_images, kept_mask, object_coverage, show_kept, show_saliency
from ptd_core.recipe import Recipe
from ptd_core.run import Run
from ptd_core.schedule import DropSchedule


def drop_explorer(recipe: Recipe, classes: int) -> ipywidgets.Widget:
    """Sliders for the curriculum; draws d(t) and k(t) over the recipe's own in grey, and bounds the speed-up."""
    # FloatSlider shows two decimals but moves in steps of 0.1 unless told otherwise: 0.35 would read 0.40.
    controls = {
        "drop_init": ipywidgets.FloatSlider(value=recipe.drop_init, min=0, max=0.95, step=0.01, description="d_init"),
        "drop_final": ipywidgets.FloatSlider(
            value=recipe.drop_final, min=0, max=0.95, step=0.01, description="d_final"
        ),
        "window": ipywidgets.IntRangeSlider(
            value=(min(recipe.drop_start, recipe.epochs), min(recipe.drop_end, recipe.epochs)),
            min=0,
            max=recipe.epochs,
            description="t_s, t_e",
        ),
        "drop_gamma": ipywidgets.FloatSlider(value=recipe.drop_gamma, min=0.1, max=6, step=0.1, description="gamma"),
        "drop_block": ipywidgets.IntSlider(value=recipe.drop_block, min=0, max=recipe.depth - 1, description="block"),
    }
    bound = ipywidgets.HTML()

    def draw(drop_init, drop_final, window, drop_gamma, drop_block) -> Figure:
        schedule = DropSchedule(init=drop_init, final=drop_final, start=window[0], end=window[1], gamma=drop_gamma)
        changed = recipe.model_copy(
            update={
                "drop_init": drop_init,
                "drop_final": drop_final,
                "drop_start": window[0],
                "drop_end": window[1],
                "drop_gamma": drop_gamma,
                "drop_block": drop_block,
            }
        )
        with_drop, without = run_training_cost(changed, classes)
        bound.value = (
            f"<b>{100 * (1 - with_drop / without):.1f} %</b> of the run's training operations saved: "
            f"at most <b>{without / with_drop:.3f}x</b> faster"
        )
        return drop_figure(schedule, recipe.epochs, recipe.patch_tokens, run=recipe.schedule)

    return _explorer(controls, draw, height="390px", beside=bound)


def saliency_explorer(run: Run, count: int = 64) -> ipywidgets.Widget:
    """Choose a test image, block, head and drop ratio; draws image, map and kept tokens with the model's answer."""
    recipe, split = run.recipe, first_images(run.trainer.test, count)
    images = run.trainer.normalise(split.images.float() / 255)
    guesses = run.model(images).detach().softmax(dim=1).max(dim=1)
    maps = [attention_maps(run.model, images, block) for block in range(recipe.depth)]
    controls = {
        "image": ipywidgets.IntSlider(value=0, min=0, max=len(split) - 1, description="image"),
        "block": ipywidgets.IntSlider(value=recipe.drop_block, min=0, max=recipe.depth - 1, description="block"),
        "head": ipywidgets.Dropdown(
            options=[("mean of heads", None), *((f"head {head}", head) for head in range(recipe.num_heads))],
            description="attention",
        ),
        "drop": ipywidgets.FloatSlider(value=
            max(recipe.drop_final, 0.35), min=0, max=0.95, step=0.01, description="drop ratio"
        ),
    }

    def draw(image, block, head, drop) -> Figure:
        heads = maps[block][image]
        saliency = heads.mean(0) if head is None else heads[head]
        keep = max(1, DropSchedule.tokens_at_ratio(drop, recipe.patch_tokens))
        kept = kept_mask(saliency[None], keep)
        figure = new_figure(size=(8.2, 3.1))
        left, middle, right = figure.subplots(1, 3)
        show_kept(left, split, image, kept[0] | True)
        sure, guess = guesses.values[image].item(), run.dataset.classes[guesses.indices[image]]
        left.set_title(f"{run.dataset.classes[split.labels[image]]}; answer: {guess} ({100 * sure:.0f} %)", fontsize=9)
        drawn = show_saliency(middle, saliency, saliency.max().item())
        figure.colorbar(drawn, ax=middle, fraction=0.046)
        middle.set_title(f"block {block}, {'mean of heads' if head is None else f'head {head}'}", fontsize=9)
        show_kept(right, split, image, kept[0])
        title = f"{keep} of {recipe.patch_tokens} tokens kept"
        if split.masks is not None:
            title += f", {100 * object_coverage(kept, split.masks[image : image + 1]):.0f} % of the object"
        right.set_title(title, fontsize=9)
        return figure

    return _explorer(controls, draw, height="350px")


def _explorer(
    controls: dict[str, ipywidgets.Widget],
    draw: Callable[..., Figure],
    height: str,
    beside: ipywidgets.Widget | None = None,
) -> ipywidgets.Widget:
    """Controls over a picture that is drawn anew when one of them moves."""
    # A fixed height, and clearing only when the new picture is there: the page does not jump under the reader.
    output = ipywidgets.Output(layout={"height": height})

    def show(_change=None):
        with output:
            output.clear_output(wait=True)
            display(draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.layout.width = "320px"
        control.observe(show, names="value")
    show()
    rows = ipywidgets.Box(list(controls.values()), layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([rows, *([beside] if beside else []), output])
