"""How a run drops tokens, for figures and pages that show it: numbers, names and sentences."""

from collections.abc import Callable
from dataclasses import dataclass

from ptd_core.recipe import Recipe
from ptd_core.rivals.rival import Rival
from ptd_core.schedule import DropSchedule
from ptd_core.token_drop import Keep, TokenDrop

ATTENTIONS = ("class_attention", "class_attention_value", "attention_received", "averaged_attention")
UNITS = {**dict.fromkeys(ATTENTIONS, "attention"), "norm": "norm", "l1_norm": "norm", "distance": "distance"}

_FATES = {
    "discard": "the others are discarded",
    "fuse": "the others are fused into one token that goes on",
    "merge": "each of the others is merged into the kept token most like it",
    "skip": "the others skip the block and return after it",
}


@dataclass(frozen=True)
class Dropping:
    """What a run's explorer needs to know of its token drop.

    name: the run's. policy: None if it drops no token. ratio: the drop ratio of the last epoch that drops, or one to
    start with. keep_at: drop ratio -> kept tokens of each dropping block, None for all. ratios: one for each epoch.
    kept: patch tokens that the last dropping block keeps of a whole image's, one for each epoch.
    """

    name: str
    policy: TokenDrop | Rival | None
    ratio: float
    keep_at: Callable[[float], Keep | None]
    ratios: tuple[float, ...] = ()
    kept: tuple[int, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> "Dropping":
        """By a recipe."""
        if recipe.chapter != "ptd":
            return cls(recipe.run_name, None, 0.5, recipe.keep_at)
        epochs = range(recipe.epochs)
        ratios = tuple(recipe.schedule.ratio(epoch) for epoch in epochs)
        last = next((ratio for ratio in reversed(ratios) if recipe.keep_at(ratio)), recipe.drop_final)
        kept = tuple((recipe.keep_at(ratio) or (recipe.vit.patch_tokens,))[-1] for ratio in ratios)
        return cls(recipe.run_name, recipe.token_drop, last, recipe.keep_at, ratios, kept)

    @classmethod
    def at(cls, policy: TokenDrop, ratio: float, patch_tokens: int, name: str = "model") -> "Dropping":
        """Without a recipe, for any ViT: each dropping block drops this share of the patch tokens that reach it."""

        def keep_at(ratio: float) -> Keep | None:
            keep, tokens = [], patch_tokens
            for _ in policy.blocks:
                keep.append(max(1, DropSchedule.tokens_at_ratio(ratio, tokens)))
                tokens = policy.left(keep[-1], tokens)
            return tuple(keep) if keep[0] < patch_tokens else None

        return cls(name, policy, ratio, keep_at)

    @property
    def own(self) -> TokenDrop | None:
        """The policy if it is one of scores; None for methods that choose in another way."""
        return self.policy if isinstance(self.policy, TokenDrop) else None

    @property
    def sentence(self) -> str:
        """What the run does with tokens, in one sentence."""
        if self.policy is None:
            return "This run drops no token."
        if self.own is None:
            return f"This run reduces tokens by {self.policy.name}, which does not choose by these scores."
        return policy_sentence(self.own)


def policy_sentence(policy: TokenDrop) -> str:
    """Where, by which score and to what fate tokens are dropped, in one sentence."""
    by = {
        "top": f"by {score_name(policy.score)}",
        "sample": f"drawn in proportion to {score_name(policy.score)}",
        "greedy": "that spread over the features",
    }[policy.choice]
    keeps = "keeps" if len(policy.blocks) == 1 else "keep"
    if policy.fate == "bypass":
        first, last = policy.blocks[0], policy.until - 1
        where = f"blocks {first} to {last} and return after block {last}"
        others = f"the others skip {where if last > first else f'block {first} and return after it'}"
    else:
        others = _FATES[policy.fate]
    return f"In this run {blocks_name(policy.blocks)} {keeps} tokens {by}; {others}."


def blocks_name(blocks: tuple[int, ...]) -> str:
    """ "block 1", "blocks 0, 2 and 3"."""
    *first, last = map(str, blocks)
    return f"blocks {', '.join(first)} and {last}" if first else f"block {last}"


def score_name(score: str) -> str:
    """A score in words."""
    return {"class_attention_value": "class attention x value", "l1_norm": "L1 norm"}.get(
        score, score.replace("_", " ")
    )


def score_unit(score: str) -> str:
    """What stands beside the colours of its map."""
    return UNITS.get(score, "score")
