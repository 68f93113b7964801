"""Methods that are no `TokenDrop`, as policies of a recipe: what a trainer builds, and how many tokens go where."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ptd_core.rivals.dynamicvit import DynamicViT
from ptd_core.rivals.evo_vit import EvoViT
from ptd_core.rivals.tome import ToMeViT, pairs_per_block
from ptd_core.tokens.reaching import Keep, tokens_reaching

# (vit, blocks, teacher) -> the module that trains the ViT by the method
NETWORKS: dict[str, Callable[[nn.Module, tuple[int, ...], nn.Module], nn.Module]] = {
    "tome": lambda vit, blocks, teacher: ToMeViT(vit),
    "evo_vit": lambda vit, blocks, teacher: EvoViT(vit, blocks[0]),
    "dynamicvit": DynamicViT,
}


@dataclass(frozen=True)
class Rival:
    """A method by its name, for a ViT of so many blocks.

    blocks: of dynamicvit those with a predictor; of evo_vit the first with slow tokens; tome merges in every block.
    Raises ValueError, naming the field, for a name or a block that does not exist.
    """

    name: str
    blocks: tuple[int, ...]
    depth: int

    def __post_init__(self) -> None:
        if self.name not in NETWORKS:
            raise ValueError(f"method must be one of {', '.join(NETWORKS)}; got {self.name!r}")
        if self.name == "evo_vit" and self.depth < 2:
            raise ValueError("method = 'evo_vit' looks at a block before it chooses: the ViT needs at least 2 blocks")
        if self.name == "evo_vit" and not 1 <= self.blocks[0] < self.depth:
            raise ValueError(f"block must be from 1 to {self.depth - 1} for evo_vit; got {self.blocks[0]}")
        if self.name != "dynamicvit" and len(self.blocks) > 1:
            raise ValueError(f"blocks = {self.blocks}: {self.name} takes one number of tokens, so one block")

    def network(self, vit: nn.Module, teacher: nn.Module) -> nn.Module:
        """The module: images and keep -> logits, or logits and a loss to add. teacher: for a method that has one."""
        return NETWORKS[self.name](vit, self.blocks, teacher)

    def nearest(self, kept: int, patch_tokens: int) -> int:
        """The fewest patch tokens, not below `kept`, that the method can keep of those that reach it."""
        return kept + (patch_tokens - kept) % self.depth if self.name == "tome" else kept

    def left(self, kept: int, patch_tokens: int) -> int:
        """Patch tokens that go on from a block that keeps so many."""
        return kept

    def reaching(self, keep: Keep, patch_tokens: int) -> list[int]:
        """Patch tokens that reach each of the blocks. Raises ValueError if the method cannot keep so many."""
        if self.name == "tome":
            pairs_per_block(patch_tokens, keep, self.depth)
            return [patch_tokens]
        return tokens_reaching(self.blocks, keep, patch_tokens)
