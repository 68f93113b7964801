"""DynamicViT (Rao et al., NeurIPS 2021): small predictors say which tokens stay; they are trained with the model.

Shapes: B batch, T tokens with the prefix first, P prefix tokens, N patch tokens, K kept tokens with the prefix,
E embedding, H heads, D head dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptd_core.saliency import gather_tokens, kept_tokens
from ptd_core.tokens import vit_parts
from ptd_core.tokens.reaching import Keep, tokens_reaching

RATIO_WEIGHT, CLASS_WEIGHT, TOKEN_WEIGHT = 2.0, 0.5, 0.5  # of the three losses beside cross-entropy, as published
EPSILON = 1e-6  # keeps the masked softmax from 0 / 0


class Predictor(nn.Module):
    """Log-probabilities to keep and to drop each patch token, from itself and from the mean of those that are left."""

    def __init__(self, width: int):
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.decide = nn.Sequential(
            nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, width // 4), nn.GELU(),
            nn.Linear(width // 4, 2),
        )  # fmt: skip

    def forward(self, x_BNE: Tensor, left_BN1: Tensor) -> Tensor:
        """Patch tokens and which of them are left (1 or 0) -> (B, N, 2)."""
        local, whole = self.embed(x_BNE).chunk(2, dim=-1)
        count_B11 = left_BN1.sum(dim=1, keepdim=True).clamp_min(1)  # of few tokens, chance may leave an image none
        whole = (whole * left_BN1).sum(dim=1, keepdim=True) / count_B11
        return self.decide(torch.cat([local, whole.expand_as(local)], dim=-1)).log_softmax(dim=-1)


class DynamicViT(nn.Module):
    """A ViT with a predictor before each of some blocks: `DynamicViT(vit, blocks, teacher)(images, keep)`.

    keep: a tuple with the patch tokens that stay from each of the blocks on. In training tokens are drawn by Gumbel
    softmax, straight through, and masked in attention, which saves no time; the result is (logits, loss), the loss
    to be added to cross-entropy: the square of what the share of tokens misses, and the distance to what a teacher
    says with all tokens, its logits (KL) and its tokens. In evaluation the most probable tokens stay, the others are
    discarded, and the result is logits. None is exactly `vit(images)`.

    teacher: a ViT of the same shape, in evaluation mode; published: the trained model itself. It is no part of this
    module. Raises ValueError for a ViT or blocks that TokenDropViT would refuse, for one whose head looks at more than
    the class token, since in training dropped tokens are still there, and for such a keep.
    """

    def __init__(self, vit: nn.Module, blocks: tuple[int, ...], teacher: nn.Module):
        super().__init__()
        vit_parts.refuse_unfit(vit)
        vit_parts.refuse_without_class_token(vit, "DynamicViT masks tokens for it alone")
        if getattr(vit, "global_pool", "token") != "token":
            raise ValueError(
                f"global_pool = {vit.global_pool!r}: DynamicViT masks dropped tokens in attention, and this head would "
                "pool them; build the ViT with global_pool='token'"
            )
        if blocks[-1] >= len(vit.blocks):
            raise ValueError(f"blocks = {blocks}: this ViT has the blocks 0 to {len(vit.blocks) - 1}")
        self.vit, self.blocks = vit, blocks
        self.predictors = nn.ModuleList(Predictor(vit.embed_dim) for _ in blocks)
        self._teacher = (teacher,)  # in a tuple, so that its weights are not this module's

    def forward(
        self, images: Tensor, keep: Keep | None = None, trace: list[Tensor] | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """trace: a list that gets, in evaluation, the index of those that each predictor keeps of its tokens (B, K)."""
        if keep is None and self.training:  # several processes expect a gradient for every weight
            return self.vit(images), sum(0.0 * weight.sum() for weight in self.predictors.parameters())
        if keep is None:
            return self.vit(images)
        x_BTE = vit_parts.embed(self.vit, images)
        patch_tokens = x_BTE.shape[1] - self.vit.num_prefix_tokens
        tokens_reaching(self.blocks, keep, patch_tokens)
        if not self.training:
            return self._gathered(x_BTE, keep, trace)
        return self._masked(images, x_BTE, [kept / patch_tokens for kept in keep])

    def _gathered(self, x_BTE: Tensor, keep: Keep, trace: list[Tensor] | None) -> Tensor:
        stages, prefix = dict(zip(self.blocks, zip(self.predictors, keep))), self.vit.num_prefix_tokens
        for number, block in enumerate(self.vit.blocks):
            if number in stages:
                predictor, kept = stages[number]
                patches_BNE = x_BTE[:, prefix:]
                scores_BN2 = predictor(patches_BNE, torch.ones_like(patches_BNE[:, :, :1]))
                index_BK = kept_tokens(scores_BN2[:, :, 0], kept, prefix)
                if trace is not None:
                    trace.append(index_BK)
                x_BTE = gather_tokens(x_BTE, index_BK)
            x_BTE = block(x_BTE)
        return self.vit.forward_head(self.vit.norm(x_BTE))

    def _masked(self, images: Tensor, x_BTE: Tensor, shares: list[float]) -> tuple[Tensor, Tensor]:
        stages, prefix = dict(zip(self.blocks, self.predictors)), self.vit.num_prefix_tokens
        left_BN1, missed, run = torch.ones_like(x_BTE[:, prefix:, :1]), [], vit_parts.runner(self.vit)
        for number, block in enumerate(self.vit.blocks):
            if number in stages:
                log_probability_BN2 = stages[number](x_BTE[:, prefix:], left_BN1)
                left_BN1 = F.gumbel_softmax(log_probability_BN2, hard=True)[:, :, :1].to(left_BN1) * left_BN1
                missed.append((left_BN1.mean(dim=(1, 2)) - shares[len(missed)]).square().mean())
            x_BTE = run(masked_block, block, x_BTE, F.pad(left_BN1.squeeze(-1), (prefix, 0), value=1.0))
        tokens_BTE = self.vit.norm(x_BTE)
        logits = self.vit.forward_head(tokens_BTE)
        ratio = torch.stack(missed).mean()
        return logits, RATIO_WEIGHT * ratio + self._distillation(images, logits, tokens_BTE[:, prefix:], left_BN1)

    def _distillation(self, images: Tensor, logits: Tensor, patches_BNE: Tensor, left_BN1: Tensor) -> Tensor:
        (teacher,) = self._teacher
        with torch.no_grad():
            tokens_BTE = teacher.forward_features(images)
            said = teacher.forward_head(tokens_BTE).float().log_softmax(dim=-1)
        divergence = F.kl_div(logits.float().log_softmax(dim=-1), said, reduction="batchmean", log_target=True)
        square_BN1 = (patches_BNE - tokens_BTE[:, teacher.num_prefix_tokens :]).square().mean(dim=-1, keepdim=True)
        left_BN1 = left_BN1.detach()
        tokens = (square_BN1 * left_BN1).sum() / left_BN1.sum().clamp_min(1)
        return CLASS_WEIGHT * divergence + TOKEN_WEIGHT * tokens


def masked_block(block: nn.Module, x_BTE: Tensor, left_BT: Tensor) -> Tensor:
    """A block in which nobody attends to a token whose mask is 0, but that token to itself: (B, T, E).

    The mask multiplies the exponentials of softmax, so that gradient flows to it.
    """
    attention, normed_BTE = block.attn, block.norm1(x_BTE)
    query = vit_parts.queries(attention, normed_BTE)
    key, value = vit_parts.keys_values(attention, normed_BTE)
    logits_BHTT = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
    logits_BHTT = logits_BHTT.to(torch.promote_types(logits_BHTT.dtype, torch.float32))
    itself_TT = torch.eye(x_BTE.shape[1], device=x_BTE.device)
    mask_B1TT = (left_BT[:, None, :] + (1 - left_BT[:, None, :]) * itself_TT).unsqueeze(1).to(logits_BHTT.dtype)
    power_BHTT = (logits_BHTT - logits_BHTT.amax(dim=-1, keepdim=True)).exp() * mask_B1TT
    weight_BHTT = (power_BHTT + EPSILON / x_BTE.shape[1]) / (power_BHTT.sum(dim=-1, keepdim=True) + EPSILON)
    weight_BHTT = vit_parts.attention_dropout(attention, weight_BHTT.to(value.dtype))
    attended = vit_parts.project_out(attention, normed_BTE, weight_BHTT @ value)
    return vit_parts.mlp_residual(block, vit_parts.attention_residual(block, x_BTE, attended))
