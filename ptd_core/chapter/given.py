"""Scores that a network cannot see for itself, for the images that a chapter shows."""

import torch
from torch import Tensor, nn

from ptd_core.data.dataset import Split
from ptd_core.run import Run
from ptd_core.tokens.given import AveragedAttention, Oracle


@torch.no_grad()
def given_scores(run: Run, models: dict[str, nn.Module], split: Split, inputs: Tensor) -> dict[str, Tensor]:
    """For each model the score of every patch token (B, N) by what the run was trained with.

    inputs: the split's images, normalised. Attention is each model's own, the gradient score what the run learned.
    Empty if the run's network sees its score for itself, or if nobody knows where the objects are that it asks for.
    """
    giver = run.trainer.giver
    if giver is None or (isinstance(giver, Oracle) and split.masks is None):
        return {}
    masks = () if split.masks is None else (split.masks.to(inputs.device),)
    found = {}
    for label, model in models.items():
        of_model = AveragedAttention(model, giver.block) if isinstance(giver, AveragedAttention) else giver
        found[label] = of_model(inputs, *masks).detach()
    return found
