"""What each method makes of one image: kept, merged, fused, waiting and dropped tokens.

Shapes: S pixels a side, G tokens a side.
"""

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from ptd_core.evaluation.provenance import FOLLOWING, FUSED, GONE, WAITING, Provenance
from ptd_core.views.style import BLUE, GREEN, ORANGE, new_figure, styled

COLUMNS = 4
_TINTS = {FUSED: ORANGE, WAITING: BLUE, FOLLOWING: GREEN}
_WORDS = {
    FUSED: "in the one token that stands for the rest",
    WAITING: "no query and no MLP here, returns later",
    FOLLOWING: "updated as one token is",
}


@styled
def provenance_figure(image_3SS: Tensor, found: dict[str, Provenance], computed: dict[str, str]) -> Figure:
    """One image, a tile for each method: kept tokens as they are, dropped ones dark, those of one merged token in its
    mean colour, others tinted by what became of them.

    image: uint8. found: of a batch that begins with this image. computed: what a tile's title says of its tokens.
    """
    rows = -(-(1 + len(found)) // COLUMNS)
    figure = new_figure(size=(1.75 * COLUMNS, 2.1 * rows + 0.3))
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    _draw(panels[0], image_3SS.cpu(), "the image")
    for panel, (name, one) in zip(panels[1:], found.items()):
        _draw(panel, painted(image_3SS, one), f"{name}\n{computed[name]}", one.part_BGG[0])
    for panel in panels[1 + len(found) :]:
        panel.axis("off")
    rest = [one.rest for one in found.values()]
    marks = [Patch(color=_TINTS[kind], label=_WORDS[kind]) for kind in _TINTS if kind in rest]
    if GONE in rest:
        marks.append(Patch(color="#222222", label="dropped"))
    figure.legend(handles=marks, loc="outside lower center", ncols=2)
    return figure


def painted(image_3SS: Tensor, one: Provenance) -> Tensor:
    """The image's pixels as its tokens have become, 0 to 255: (3, S, S)."""
    image, part_GG = image_3SS.cpu().float(), one.part_BGG[0]
    grid = part_GG.shape[-1]
    pixels = image.shape[-1] // grid
    part = part_GG.flatten()
    cells = image.unfold(1, pixels, pixels).unfold(2, pixels, pixels).flatten(3).flatten(1, 2)  # (3, N, pixels of one)
    cells = cells.clone()
    for place in part[part >= 0].unique():
        group = part == place
        if group.sum() > 1:
            cells[:, group] = cells[:, group].mean(dim=(1, 2), keepdim=True)
    rest = part < 0
    if one.rest == GONE:
        cells[:, rest] *= 0.2
    else:
        tint = torch.tensor([int(_TINTS[one.rest][at : at + 2], 16) for at in (1, 3, 5)]).float()
        cells[:, rest] = 0.35 * cells[:, rest] + 0.65 * tint[:, None, None]
    side = (grid, grid, pixels, pixels)
    return cells.unflatten(2, side[2:]).unflatten(1, side[:2]).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)


def _draw(axes, image_3SS: Tensor, title: str, part_GG: Tensor | None = None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)
    axes.imshow(image_3SS.clamp(0, 255).byte().permute(1, 2, 0).numpy())
    if part_GG is None:
        return
    pixels = image_3SS.shape[-1] // part_GG.shape[-1]
    for row, column in zip(*torch.nonzero(part_GG >= 0).T.tolist() or ([], [])):  # lines where a token ends
        for there, x, y in (
            ((row, column + 1), [column + 1] * 2, [row, row + 1]),
            ((row + 1, column), [column, column + 1], [row + 1] * 2),
        ):
            inside = max(there) < part_GG.shape[-1]
            if inside and part_GG[there] >= 0 and part_GG[there] != part_GG[row, column]:
                axes.plot(
                    [pixels * at - 0.5 for at in x], [pixels * at - 0.5 for at in y], color="white", linewidth=0.5
                )
