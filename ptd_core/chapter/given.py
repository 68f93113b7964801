"""Maps of scores for the images that a chapter shows, also of scores that a network cannot see for itself."""

import torch
from torch import Tensor, nn

from ptd_core.data.dataset import Split
from ptd_core.evaluation.token_maps import TokenMap, token_maps
from ptd_core.machine.randomness import seeded, torch_seed
from ptd_core.run import Run
from ptd_core.saliency import GIVEN
from ptd_core.token_drop import Keep, TokenDrop
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


def maps_of(run: Run, policy: TokenDrop, keep: Keep | None, shown: Split) -> list[TokenMap]:
    """What a run's model sees and keeps of images by a policy, block by block, with what the run was trained with.

    keep: as TokenDropViT takes it. What a score or a choice draws is the same each time.
    """
    inputs = run.trainer.normalise(shown.images.float() / 255)
    given = given_scores(run, {"": run.model}, shown, inputs).get("") if policy.score in GIVEN else None
    with seeded(torch_seed(run.recipe.seed, 0, "maps")):
        return token_maps(run.model, policy, keep, inputs, given)
