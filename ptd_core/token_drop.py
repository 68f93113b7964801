"""Token drop around a ViT: the policy (where, by which score, what becomes of the rest), and a module that runs it.

The ViT knows nothing of it: `TokenDropViT` holds an untouched one and runs its own parts, so its weights, state dict,
evaluation and export are those of a plain ViT.

Shapes: B batch, C channels, S pixels a side, P prefix tokens (class token first), N patch tokens, T = P + N,
K kept tokens with the prefix, E embedding, G patch tokens of the whole image.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ptd_core.errors import did_you_mean
from ptd_core.saliency import (
    ASK_ATTENTION,
    ASK_THE_CLASS_TOKEN,
    SCORES,
    SIGNED,
    Chosen,
    Seen,
    gather_tokens,
    kept_tokens,
)
from ptd_core.tokens import vit_parts
from ptd_core.tokens.choices import CHOICES
from ptd_core.tokens.fates import FATES, PUT_BACK, REDUCE, discard, part_of, places_left, put_back
from ptd_core.tokens.reaching import Keep, tokens_reaching

ATTENDED = ("all", "kept")


def _refuse_unknown(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        hint = did_you_mean(value, allowed)
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}" + (f" ({hint})" if hint else ""))


@dataclass(frozen=True)
class TokenDrop:
    """A policy of token drop. How many tokens are kept, and when, is not in it: that is the schedule's.

    blocks: those that drop tokens, ascending, counted from 0. score: a key of `saliency.SCORES`. choice: one of
    `choices.CHOICES`, by the scores. fate of the others, one of `fates.FATES`:
        discard   gone from this block's queries on
        fuse      one more token stands for them from this block's MLP on, weighted by class attention (EViT)
        merge     each joins the kept token most like it, from this block's MLP on (ToE)
        skip      this block leaves them as they are; they are back in their places after it (random-LTD)
        bypass    this block and those until block `until` leave them so; they are back before that one (SkipViT)
    attended: "all": kept tokens attend to all tokens in this block; "kept": the choice is made before the block, which
    sees the kept tokens only. In block 0 that is dropping at the input (PatchDropout).
    until: block, or the number of blocks for the end of the last one; of bypass alone.
    Raises ValueError, naming the field and what is allowed, for anything else and for what contradicts itself.
    """

    blocks: tuple[int, ...] = (0,)
    score: str = "class_attention"
    choice: str = "top"
    fate: str = "discard"
    attended: str = "all"
    until: int | None = None

    def __post_init__(self) -> None:
        blocks = self.blocks
        whole = isinstance(blocks, (tuple, list)) and all(type(block) is int for block in blocks)
        if not whole or not blocks or list(blocks) != sorted(set(blocks)) or blocks[0] < 0:
            raise ValueError(f"blocks must be different whole numbers from 0 on, ascending, in a tuple; got {blocks!r}")
        object.__setattr__(self, "blocks", tuple(blocks))
        for name, allowed in (("score", SCORES), ("choice", CHOICES), ("fate", FATES), ("attended", ATTENDED)):
            _refuse_unknown(name, getattr(self, name), tuple(allowed))
        if self.choice == "greedy" and self.score != "distance":
            raise ValueError(
                f"choice = 'greedy' spreads over the features: score must be 'distance'; got {self.score!r}"
            )
        if self.choice == "sample" and self.score in SIGNED:
            raise ValueError(f"choice = 'sample' draws by weights, and the score {self.score!r} is none")
        if self.fate == "bypass":
            if len(blocks) != 1:
                raise ValueError(f"fate = 'bypass' is one route, from one block; got blocks = {self.blocks}")
            if type(self.until) is not int or self.until <= blocks[0]:
                raise ValueError(f"until must be a block after {blocks[0]}, where tokens return; got {self.until!r}")
        elif self.until is not None:
            raise ValueError(f"until is of fate = 'bypass' alone; got until = {self.until!r}, fate = {self.fate!r}")

    @property
    def asks_the_class_token(self) -> bool:
        return self.score in ASK_THE_CLASS_TOKEN or self.fate == "fuse"

    @property
    def asks_attention(self) -> bool:
        """Whether a dropping block needs all tokens as attention takes them."""
        return self.attended == "all" or self.score in ASK_ATTENTION or self.fate == "fuse"

    def network(self, vit: nn.Module, teacher: nn.Module | None = None) -> "TokenDropViT":
        """The ViT run by this policy, which has no teacher."""
        return TokenDropViT(vit, self)

    def nearest(self, kept: int, patch_tokens: int) -> int:
        """The fewest patch tokens, not below `kept`, that can be kept of those that reach a drop: any number can."""
        return kept

    def left(self, kept: int, patch_tokens: int) -> int:
        """Patch tokens that go on to the next drop from one that keeps so many of those that reach it."""
        if self.fate in PUT_BACK or kept == patch_tokens:
            return patch_tokens
        return kept + (self.fate == "fuse")

    def reaching(self, keep: Keep, patch_tokens: int) -> list[int]:
        """Patch tokens that reach each dropping block. Raises ValueError if it is told to keep more, or less than 1."""
        return tokens_reaching(self.blocks, keep, patch_tokens, self.left)


class TokenDropViT(nn.Module):
    """A ViT run with fewer tokens: `TokenDropViT(vit, drop)(images, keep)`.

    vit: HybridViT, or a timm VisionTransformer (distillation and register tokens, layer scale, norms of queries and
    keys, fused or explicit attention). Prefix tokens are always kept and never scored.

    A block that drops scores its tokens once. Where the kept tokens attend to all, it makes keys and values for all;
    queries, attention, projection and MLP are computed for the kept ones only, or, where the others are fused or
    merged after attention, attention for all and the MLP for the fewer. The result equals attention for all tokens
    followed by a gather, at less cost. The parts of such a block are run, not the block as a module: hooks on it do
    not fire. Gradient checkpointing is that of the ViT.

    Raises ValueError for a ViT that cannot be run so, with the reason and what can, and for blocks that it lacks.
    """

    def __init__(self, vit: nn.Module, drop: TokenDrop = TokenDrop()):
        super().__init__()
        vit_parts.refuse_unfit(vit)
        if drop.asks_the_class_token:
            what = f"the fate {drop.fate}" if drop.fate == "fuse" else f"the score {drop.score}"
            other = ", or choose a score that needs none, such as norm, and another fate than fuse"
            vit_parts.refuse_without_class_token(vit, f"{what} is the class token's attention", other)
        if drop.blocks[-1] >= len(vit.blocks):
            raise ValueError(f"blocks = {drop.blocks}: this ViT has the blocks 0 to {len(vit.blocks) - 1}")
        if drop.until is not None and drop.until > len(vit.blocks):
            raise ValueError(f"until = {drop.until}: this ViT ends after block {len(vit.blocks) - 1}")
        self.vit = vit
        self.drop = drop

    def forward(self, images: Tensor, keep: Keep | None = None, given_BG: Tensor | None = None) -> Tensor:
        """Images (B, C, S, S) -> what `vit(images)` gives, with keep[i] patch tokens from block drop.blocks[i] on.

        Obeyed in training and in evaluation; None is exactly `vit(images)`. given_BG: the score of every patch token
        of the image, for a score of `saliency.GIVEN`; if it wants a gradient, it gets the gradient x activation of
        each token where it comes to the first block. Raises ValueError unless there is one number for each dropping
        block, each at least 1 and at most what reaches it.
        """
        if keep is None and (given_BG is None or not given_BG.requires_grad):
            return self.vit(images)
        return self.vit.forward_head(self.forward_features(images, keep, given_BG))

    def forward_features(self, images: Tensor, keep: Keep | None, given_BG: Tensor | None = None) -> Tensor:
        """Tokens after the last block and norm: (B, P + those that are left, E)."""
        return self.vit.norm(self.run_blocks(images, keep, given_BG)[0])

    def run_blocks(
        self, images: Tensor, keep: Keep | None, given_BG: Tensor | None = None, trace: list[Chosen] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens after the last block (B, P + n, E), and the place of each patch token among them in the image (B, n).

        A place counts the image's patch tokens row by row; it is -1 for a token fused of several. trace: a list that
        gets what each dropping block chose, also of one that keeps all, which is scored for this alone. No gradient.
        """
        height, width = images.shape[-2:]
        if height != width and self.drop.score == "centre":
            raise ValueError(f"images are {height} x {width}: the score centre is that of square ones")
        x_BTE = vit_parts.embed(self.vit, images)
        patches = x_BTE.shape[1] - self.vit.num_prefix_tokens
        place_BN = torch.arange(patches, device=x_BTE.device).expand(len(x_BTE), -1)
        if given_BG is not None and given_BG.requires_grad:
            gate_BG = 1 + (given_BG - given_BG.detach())  # ones, whose gradient is sum_E dloss/dx x
            x_BTE = torch.cat([x_BTE[:, :-patches], x_BTE[:, -patches:] * gate_BG.unsqueeze(-1)], dim=1)
        keep = (patches,) * len(self.drop.blocks) if keep is None else keep
        see = partial(Seen, prefix=x_BTE.shape[1] - patches, grid=math.isqrt(patches), given_BG=given_BG)
        drop = partial(self._drop, see=see, trace=trace)
        drops = {
            block: partial(drop, self.vit.blocks[block], keep=kept)
            for block, kept, reaching in zip(self.drop.blocks, keep, self.drop.reaching(keep, patches))
            if kept < reaching
        }
        run = vit_parts.runner(self.vit)
        waiting, back = None, None  # what came to a drop and the index of the kept; the block before which it is back
        for number, block in enumerate(self.vit.blocks):
            if number == back:
                (x_BTE, place_BN), back = _rejoin(*waiting, x_BTE), None
            if number not in drops:
                if trace is not None and number in self.drop.blocks:
                    drop(block, x_BTE, place_BN, keep=place_BN.shape[1])  # for its scores
                x_BTE = run(block, x_BTE)
                continue
            came = x_BTE, place_BN
            x_BTE, place_BN, index_BK = run(drops[number], x_BTE, place_BN)
            if self.drop.fate in PUT_BACK:
                waiting, back = (*came, index_BK), self.drop.until or number + 1
        if back is not None:  # after the last block
            x_BTE, place_BN = _rejoin(*waiting, x_BTE)
        return x_BTE, place_BN

    def _drop(
        self, block: nn.Module, x_BTE: Tensor, place_BN: Tensor, *, keep: int, see: partial, trace: list | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A block that drops: tokens (B, n, E), the places of the patch tokens among them, index of the kept (B, K).
        see: makes what the scores see, given what is of this block."""
        drop, attention, prefix = self.drop, block.attn, self.vit.num_prefix_tokens
        normed_BTE = block.norm1(x_BTE) if drop.asks_attention else None
        attends_all = drop.attended == "all"
        key, value = vit_parts.keys_values(attention, normed_BTE) if attends_all else (None, None)
        seen = see(
            tokens_BTE=x_BTE,
            x_BTE=normed_BTE,
            query=partial(vit_parts.queries, attention),
            key=lambda: key if attends_all else vit_parts.keys(attention, normed_BTE),
            value=lambda: value if attends_all else vit_parts.values(attention, normed_BTE),
            place_BN=place_BN,
        )
        with torch.no_grad():  # a token is in or out: no gradient flows through the choice
            scores_BN = SCORES[drop.score](seen)
            index_BK = kept_tokens(CHOICES[drop.choice](scores_BN, keep, x_BTE[:, prefix:]), keep, prefix)
        reduce = REDUCE.get(drop.fate, discard)

        def reduced(x_BTE: Tensor) -> Tensor:
            if trace is not None:
                trace.append(Chosen(place_BN, scores_BN, *part_of(drop.fate, x_BTE, index_BK, place_BN, prefix)))
            return reduce(x_BTE, index_BK, seen)

        if not attends_all:
            x_BTE = block(reduced(x_BTE))
        elif reduce is discard:  # what is gone, or takes no part, needs no query
            asking_BKE = gather_tokens(normed_BTE, index_BK)
            attended = vit_parts.attend(attention, asking_BKE, seen.query(asking_BKE), key, value)
            x_BTE = vit_parts.attention_residual(block, reduced(x_BTE), attended)
            x_BTE = vit_parts.mlp_residual(block, x_BTE)
        else:  # what is fused or merged has attended before
            attended = vit_parts.attend(attention, normed_BTE, seen.query(normed_BTE), key, value)
            x_BTE = reduced(vit_parts.attention_residual(block, x_BTE, attended))
            x_BTE = vit_parts.mlp_residual(block, x_BTE)
        return x_BTE, places_left(drop.fate, place_BN, index_BK, prefix), index_BK


def _rejoin(came_BTE: Tensor, place_BN: Tensor, index_BK: Tensor, x_BKE: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and places as they came to the drop, with the kept tokens as they are now."""
    return put_back(came_BTE, index_BK, x_BKE), place_BN
