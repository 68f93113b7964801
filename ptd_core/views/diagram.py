"""A drawing of the transformer block with and without token drop: which step works on how many tokens."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ptd_core.views.style import BLUE, GREEN, GREY, ORANGE, RED, new_figure, styled

WIDTH, HEIGHT = 2.5, 0.62  # of a step, in the drawing's units
MIDDLE, LEFT, RIGHT, SKIP = 1.5, 0.0, 3.0, -2.1  # horizontal places of steps, and of the residual connections
STEPS = {  # label, horizontal place, vertical place, colour
    "in": ("tokens in", MIDDLE, 0.0, GREY),
    "qkv": ("LN; queries, keys, values", MIDDLE, 1.75, BLUE),
    "score": ("class token's query:\nsaliency, top k", LEFT, 1.3, GREEN),
    "kv": ("LN; keys, values", RIGHT, 1.3, BLUE),
    "q": ("queries", LEFT, 2.35, BLUE),
    "attention": ("attention, projection", MIDDLE, 3.4, BLUE),
    "mlp": ("LN; MLP", MIDDLE, 5.25, ORANGE),
    "out": ("tokens out", MIDDLE, 6.8, GREY),
}
ALL_TOKENS = [("in", "qkv"), ("qkv", "attention"), ("attention", "mlp"), ("mlp", "out")]
DROPPING = [("in", "kv"), ("in", "score"), ("score", "q"), ("q", "attention"), ("kv", "attention"), *ALL_TOKENS[2:]]
ADDITIONS = (4.2, 6.05)  # heights at which a residual connection is added


@styled
def block_figure(patch_tokens: int, keep: int) -> Figure:
    """A block that passes all N patch tokens on, and beside it the block that keeps `keep` of them.

    Every box shows for how many tokens, class token included, it computes. Raises ValueError unless 1 <= keep <= N.
    """
    if not 1 <= keep <= patch_tokens:
        raise ValueError(f"keep must be from 1 to the {patch_tokens} patch tokens; got {keep}")
    tokens, kept = 1 + patch_tokens, 1 + keep
    figure = new_figure(size=(7.4, 4.8))
    left, right = figure.subplots(1, 2)
    _draw(left, ALL_TOKENS, dict.fromkeys(STEPS, tokens))
    _draw(right, DROPPING, {**dict.fromkeys(STEPS, kept), "in": tokens, "kv": tokens, "score": 1})
    _arrow(right, (RIGHT - WIDTH / 2, STEPS["kv"][2]), (LEFT + WIDTH / 2, STEPS["score"][2]))
    right.text(SKIP + 0.15, 2.2, f"gather the {kept} kept", fontsize=7.5, color=RED, rotation=90, va="center")
    left.set_title("all tokens: evaluation, baseline")
    right.set_title("token drop: this block, in training")
    return figure


def _draw(axes: Axes, arrows: list[tuple[str, str]], tokens: dict[str, int]) -> None:
    for start, end in arrows:
        (_, x, y, _), (_, to_x, to_y, _) = STEPS[start], STEPS[end]
        _arrow(axes, (x, y + HEIGHT / 2), (to_x, to_y - HEIGHT / 2))
    for name in {name for arrow in arrows for name in arrow}:
        label, x, y, colour = STEPS[name]
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0.04", fc="white", ec=colour, lw=2))
        axes.text(x, y, label, ha="center", va="center", fontsize=7.5)
        axes.text(x + WIDTH / 2, y + HEIGHT / 2 + 0.08, tokens[name], ha="right", va="bottom", fontsize=8, color=colour)
    # The first connection branches off below the attention, the second between the additions.
    for branch, start, side in ((MIDDLE - WIDTH / 2, 0.0, SKIP), (MIDDLE, ADDITIONS[0] + 0.33, -0.6)):
        height = ADDITIONS[0] if start == 0 else ADDITIONS[1]
        axes.plot([branch, side, side], [start, start, height], color="#555555", lw=1)
        _arrow(axes, (side, height), (MIDDLE - 0.15, height))
        axes.text(MIDDLE, height, "+", ha="center", va="center", bbox={"boxstyle": "circle", "fc": "white"})
    axes.set(xlim=(-2.4, 4.4), ylim=(-0.5, 7.4))
    axes.axis("off")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#555555", "shrinkA": 2, "shrinkB": 3})
