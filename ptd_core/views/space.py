"""The space of token reduction: published methods as points of it, and what its axes mean for tokens and for cost."""

import dataclasses
from collections.abc import Callable

from matplotlib.figure import Figure

from ptd_core.cost import cost
from ptd_core.recipe import Recipe
from ptd_core.rivals.rival import Rival
from ptd_core.schedule import DropSchedule
from ptd_core.token_drop import TokenDrop
from ptd_core.tokens.reaching import Keep
from ptd_core.views.dropping import blocks_name, score_name
from ptd_core.views.style import BLUE, GREY, look, new_figure, styled

AXES = ("score", "choice", "fate", "place", "schedule")
Keeps = Callable[[Recipe, float], Keep | None]  # what a policy keeps so that its last drop lets out that share

NAMES = {
    "ptd": "PTD", "patchdropout": "PatchDropout", "evit": "EViT", "random_ltd": "random-LTD", "toe": "ToE",
    "pss": "PSS", "skipvit": "SkipViT", "tome": "ToMe", "evo_vit": "Evo-ViT", "dynamicvit": "DynamicViT",
}  # fmt: skip
_CHOICES = {"top": "top k", "sample": "drawn by score", "greedy": "spread (greedy)"}
_FATES = {
    "discard": "discarded", "fuse": "fused into one", "merge": "merged into the nearest", "skip": "skip the block",
    "bypass": "bypass blocks",
}  # fmt: skip
_RIVALS = {  # score, choice, fate
    "tome": ("similarity of keys", "pairs (bipartite)", "merged into the nearest"),
    "evo_vit": ("class attention, mean over blocks", "top k", "follow one token"),
    "dynamicvit": ("learned predictor", "drawn by score", "masked, later discarded"),
}
_LONG = 100  # epochs


def method_name(name: str) -> str:
    """A method as its authors write it."""
    return NAMES.get(name, name)


def traits(recipe: Recipe) -> dict[str, str]:
    """A recipe's value on each of AXES, in words."""
    drop = recipe.token_drop
    if isinstance(drop, Rival):
        score, choice, fate = _RIVALS[drop.name]
        place = {"tome": "within every block", "evo_vit": "from a middle block on"}.get(drop.name, _place(drop.blocks))
    else:
        score, fate = score_name(drop.score), _FATES[drop.fate]
        choice = "at random" if drop.score == "random" else _CHOICES[drop.choice]
        place = _place(drop.blocks, drop.attended)
    return dict(zip(AXES, (score, choice, fate, place, _course(recipe)), strict=True))


def _place(blocks: tuple[int, ...], attended: str = "kept") -> str:
    where = "before" if attended == "kept" else "within"
    if blocks == (0,):
        return f"{where} the first block"
    return f"{where} {'a later block' if len(blocks) == 1 else 'several blocks'}"


def _course(recipe: Recipe) -> str:
    """How the kept tokens go over a long run, whatever the length of this one."""
    tokens, epochs = recipe.vit.patch_tokens, max(recipe.epochs, _LONG)
    schedule = dataclasses.replace(recipe.schedule, epochs=epochs)
    kept = [schedule.kept(epoch, tokens) for epoch in range(epochs)]
    if len(set(kept[schedule.start :])) == 1:
        return "constant"
    if kept == sorted(kept):
        return "few to all"
    return "all to few" if kept == sorted(kept, reverse=True) else "up and down"


@styled
def space_figure(methods: dict[str, Recipe]) -> Figure:
    """Each method a line through its value on each axis."""
    found = {name: traits(recipe) for name, recipe in methods.items()}
    figure = new_figure(size=(10.4, 5.2))
    axes = figure.subplots()
    heights = {name: [] for name in found}
    for place, axis in enumerate(AXES):
        axes.text(place, 1.0, axis, ha="center", va="bottom", fontweight="bold")
        values = list(dict.fromkeys(one[axis] for one in found.values()))
        for number, value in enumerate(values):
            level = 1 - (number + 0.6) / len(values)
            through = [name for name, one in found.items() if one[axis] == value]
            for rank, name in enumerate(through):  # lines through one value lie side by side
                heights[name].append(level + (rank - (len(through) - 1) / 2) * min(0.014, 0.05 / len(through)))
            axes.text(place, level, value.replace(", ", ",\n"), ha="center", va="center", fontsize=8, zorder=3,
                      bbox={"fc": "white", "ec": GREY, "boxstyle": "round,pad=0.3"})  # fmt: skip
    for number, (name, levels) in enumerate(heights.items()):
        axes.plot(range(len(AXES)), levels, linewidth=1.8, zorder=2, color=look(number)[0],
                  label=method_name(name))  # fmt: skip
    axes.set(xlim=(-0.4, len(AXES) - 0.6), ylim=(-0.02, 1.05))
    axes.axis("off")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


@styled
def courses_figure(schedules: dict[str, DropSchedule], epochs: int) -> Figure:
    """The share of patch tokens kept over the epochs of a run, a panel for each schedule."""
    rows = -(-len(schedules) // 3)
    figure = new_figure(size=(7.4, 1.9 * rows))
    grid = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False)
    times = range(epochs + 1)  # the last epoch, too, is drawn as long as it lasts
    for panel, (name, schedule) in zip(grid.flat, schedules.items()):
        panel.step(times, [1 - schedule.ratio(min(t, epochs - 1)) for t in times], where="post", color=BLUE)
        panel.set_title(name, fontsize=9)
        panel.grid()
    for panel in list(grid.flat)[len(schedules) :]:
        panel.axis("off")
    grid[0, 0].set_ylim(0, 1.06)
    for panel in grid[:, 0]:
        panel.set_ylabel("kept share")
    for panel in grid[-1]:
        panel.set_xlabel("epoch")
    return figure


@styled
def place_figure(recipe: Recipe, classes: int, share: float = 0.5) -> Figure:
    """What operations predict a training step to gain, by the block that drops, for what can become of the others."""
    figure = new_figure()
    axes = figure.subplots()
    vit, kept = recipe.vit, DropSchedule.tokens_at_ratio(1 - share, recipe.vit.patch_tokens)
    blocks = range(vit.depth)
    lines: dict[str, Callable[[int], TokenDrop]] = {
        "before the block, discarded": lambda block: TokenDrop((block,), "random", attended="kept"),
        "within the block, discarded": lambda block: TokenDrop((block,), "norm"),
        "within the block, merged": lambda block: TokenDrop((block,), "norm", fate="merge"),
        "bypass until the last block": lambda block: TokenDrop((block,), "norm", fate="bypass", until=vit.depth - 1),
        "skip this block": lambda block: TokenDrop((block,), "norm", fate="skip"),
    }
    whole = cost(vit, classes).training
    for number, (name, policy) in enumerate(lines.items()):
        colour, marker = look(number)
        possible = [block for block in blocks if not name.startswith("bypass") or block < vit.depth - 1]
        gains = [whole / cost(vit, classes, policy(block), (kept,)).training for block in possible]
        axes.plot(possible, gains, marker=marker, color=colour, label=name)
    axes.axhline(1, color=GREY, linewidth=1)
    axes.set(xlabel="block that drops", ylabel=f"step, times faster (predicted), {kept} of {vit.patch_tokens} kept")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid()
    axes.legend()
    return figure


@styled
def cost_figure(methods: dict[str, Recipe], classes: int, keeps: Keeps) -> Figure:
    """The operations of a training step, of those with all tokens, against the tokens that each method keeps."""
    figure = new_figure(size=(7.4, 4.2))
    axes = figure.subplots()
    for number, (name, recipe) in enumerate(methods.items()):
        tokens, points = recipe.vit.patch_tokens, {}
        whole = recipe.cost(classes).training
        for share in (0.9, 0.75, 0.6, 0.5):
            keep = keeps(recipe, share)
            part = recipe.cost(classes, keep).training
            points[100 * (keep[-1] if keep else tokens) / tokens] = 100 * part / whole
        colour, marker = look(number)
        style = "--" if isinstance(recipe.token_drop, Rival) else "-"
        axes.plot(points.keys(), points.values(), style, color=colour, marker=marker, fillstyle="none",
                  label=method_name(name))  # fmt: skip
    axes.axhline(100, color=GREY, linewidth=1)
    axes.set(xlabel="patch tokens computed by the last block that reduces (%)", ylabel="operations of a step (%)")
    axes.grid()
    figure.legend(loc="outside right")
    return figure


def axis_rows(methods: dict[str, Recipe], classes: int, keeps: Keeps) -> list[list[str]]:
    """A line of a table for each method: its name, its value on each axis, its blocks, and what half of the tokens
    would gain in a training step, predicted from operations."""
    rows = []
    for name, recipe in methods.items():
        gain = recipe.cost(classes).training / recipe.cost(classes, keeps(recipe, 0.5)).training
        named = blocks_name(recipe.token_drop.blocks)
        blocks = {"tome": "all blocks", "evo_vit": f"from {named} on"}.get(recipe.drop_method, named)
        rows.append([method_name(name), *traits(recipe).values(), blocks, f"{gain:.3f}x"])
    return rows
