"""How class attention changes while a model is trained: does it concentrate, and do dropped tokens come back?

Whatever a model was trained with, its attention is asked with all tokens, for the k that it would keep: the same
question to a model that was trained with token drop and to one that was not.

Shapes: B images, N patch tokens, k kept ones.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ptd_core.data.dataset import Split
from ptd_core.evaluation.accuracy import evaluating
from ptd_core.evaluation.fewer_tokens import Normalise
from ptd_core.records.markdown import markdown_table
from ptd_core.records.rows import read_table, write_table
from ptd_core.saliency import patch_scores
from ptd_core.tokens.vit_parts import class_attention_row

FILE = "feedback.csv"
# Measured columns, and how a table shows their means.
MEASURES = {
    "entropy": "{:.3f}".format,
    **dict.fromkeys(("on_kept", "changed", "returned", "until_end"), "{:.1%}".format),
}


@dataclass(frozen=True)
class Row:
    """The class attention of one run after one epoch, in one block: means over images. What is not known is NaN.

    epoch: finished epochs; 0: before training. trained_with: patch tokens that training kept in that epoch. kept: k.
    entropy: of attention over patch tokens, in units of log N: 1 is uniform. on_kept: the share of it that falls on the
    k tokens. changed: the share of the kept tokens that were not kept at the row before; returned: the share of the
    tokens dropped there that are kept now; until_end: the share of the kept tokens that are dropped at the last row.
    A choice by chance has changed = until_end = 1 - k/N, returned = k/N.
    """

    run: str
    cell: str
    seed: int
    epoch: int
    trained_with: int
    block: int
    kept: int
    tokens: int
    images: int
    entropy: float
    on_kept: float
    changed: float
    returned: float
    until_end: float
    torch: str
    commit: str


@torch.inference_mode()
def scores(vit: nn.Module, split: Split, normalise: Normalise, block: int, batch_size: int = 256) -> Tensor:
    """Class attention in one block, mean over heads, with all tokens: (B, N). Raises ValueError for unfit models."""
    with evaluating(vit):
        return torch.cat([
            patch_scores(class_attention_row(vit, normalise(batch.images.float() / 255), block), vit.num_prefix_tokens)
            for batch in split.batches(batch_size)
        ])  # fmt: skip


def measures(scores_BN: list[Tensor], keep: int) -> Iterator[dict[str, float]]:
    """The measured columns of `Row`, from the scores of the same images after one epoch after another.

    Raises ValueError unless 1 <= keep < N.
    """
    tokens = scores_BN[0].shape[1]
    if not 1 <= keep < tokens:
        raise ValueError(f"of {tokens} patch tokens 1 to {tokens - 1} can be kept; got {keep}")
    kept = [torch.zeros_like(s, dtype=torch.bool).scatter(1, s.topk(keep, dim=1).indices, True) for s in scores_BN]
    for number, (score, now) in enumerate(zip(scores_BN, kept)):
        share = (score / score.sum(dim=1, keepdim=True)).double()
        changed = (now & ~kept[number - 1]).sum().item() / now.sum().item() if number else math.nan
        yield {
            "entropy": -(share * share.clamp_min(1e-30).log()).sum(dim=1).mean().item() / math.log(tokens),
            "on_kept": (share * now).sum(dim=1).mean().item(),
            "changed": changed,
            "returned": changed * keep / (tokens - keep),
            "until_end": (now & ~kept[-1]).sum().item() / now.sum().item(),
        }


def write(rows: list[Row], folder: Path) -> None:
    """Raises OutputError if it cannot be written."""
    write_table(rows, folder / FILE)


def read(folder: Path) -> list[Row]:
    """Raises OutputError if the folder's feedback.csv is not there or damaged."""
    return read_table(Row, folder / FILE, "measures of attention after epochs")


def lines(rows: list[Row]) -> dict[tuple[str, int], dict[int, list[Row]]]:
    """Rows by (cell, block), and in each by epoch: the runs of one cell stand together."""
    found: dict[tuple[str, int], dict[int, list[Row]]] = {}
    for row in rows:
        found.setdefault((row.cell, row.block), {}).setdefault(row.epoch, []).append(row)
    return found


def markdown(rows: list[Row]) -> str:
    """Means over seeds, at the first, the middle and the last epoch."""
    head = ["trained as", "block", "after epoch", "seeds", "entropy", "on the kept", "changed", "returned", "until end"]
    table = []
    for (cell, block), epochs in lines(rows).items():
        order = sorted(epochs)
        for epoch in dict.fromkeys([*order[:2], order[len(order) // 2], order[-1]]):
            group = epochs[epoch]
            values = [[getattr(row, name) for row in group] for name in MEASURES]
            shown = ["" if math.isnan(v[0]) else form(sum(v) / len(v)) for v, form in zip(values, MEASURES.values())]
            table.append([cell, str(block), str(epoch), str(len(group)), *shown])
    return markdown_table(head, table)
