"""What a forward pass and a training step cost in floating-point operations, and so what dropping tokens can save.

One multiply-add counts as two operations; only matrix products and convolutions are counted, as
`torch.utils.flop_counter` does. Softmax, norms, activations and the optimizer are left out.
"""

from dataclasses import dataclass

from ptd_core.recipe import Recipe


@dataclass(frozen=True)
class Cost:
    """Operations for one image: `forward` in evaluation or training, `training` forward and backward together."""

    forward: int
    training: int


def cost(recipe: Recipe, num_classes: int, keep: int | None = None) -> Cost:
    """Operations per image of the recipe's model when its drop block keeps `keep` of N patch tokens (None: all).

    The drop block makes keys and values for all tokens, one query for the class token, and the rest for the kept
    tokens; blocks after it see the kept tokens only. Raises ValueError unless 1 <= keep <= N.
    """
    patch_tokens = recipe.patch_tokens
    if keep is not None and not 1 <= keep <= patch_tokens:
        raise ValueError(f"keep must be from 1 to the {patch_tokens} patch tokens; got {keep}")
    dropping = keep is not None and keep < patch_tokens
    first, rest = _stem(recipe)
    trained = rest + 2 * recipe.embed_dim * num_classes
    untrained = 0
    tokens = 1 + patch_tokens
    for block in range(recipe.depth):
        kept = 1 + keep if dropping and block == recipe.drop_block else tokens
        trained += _block(recipe, tokens, kept)
        if kept < tokens:
            untrained += _scores(recipe, tokens)
        tokens = kept
    # Backward makes two products for each forward one, towards weights and towards inputs. The first convolution
    # needs none towards the images; the scores carry no gradient at all.
    return Cost(forward=first + trained + untrained, training=2 * first + 3 * trained + untrained)


def run_training_cost(recipe: Recipe, num_classes: int) -> tuple[int, int]:
    """Training operations per image summed over the recipe's epochs: with its token drop, and with all tokens."""
    kept = [recipe.schedule.kept(epoch, recipe.patch_tokens) for epoch in range(recipe.epochs)]
    by_kept = {keep: cost(recipe, num_classes, keep).training for keep in set(kept)}
    return sum(by_kept[keep] for keep in kept), recipe.epochs * cost(recipe, num_classes).training


def _stem(recipe: Recipe) -> tuple[int, int]:
    """Operations of the first convolution, and of the other two."""
    strides = {1: (1, 1, 1), 2: (1, 2, 1), 4: (2, 2, 1), 8: (2, 2, 2)}[recipe.stem_stride]
    channels = (3, recipe.stem_width, 2 * recipe.stem_width, recipe.embed_dim)
    side, operations = recipe.image_size, []
    for before, after, stride in zip(channels, channels[1:], strides):
        side = -(-side // stride)
        operations.append(2 * 9 * before * after * side * side)
    return operations[0], sum(operations[1:])


def _block(recipe: Recipe, tokens: int, kept: int) -> int:
    """A block that sees `tokens` and lets out `kept`, both with the class token."""
    width, hidden = recipe.embed_dim, int(recipe.mlp_ratio * recipe.embed_dim)
    keys_values = 4 * tokens * width * width
    query_projection = 4 * kept * width * width
    attention = 4 * kept * tokens * width
    mlp = 4 * kept * width * hidden
    return keys_values + query_projection + attention + mlp


def _scores(recipe: Recipe, tokens: int) -> int:
    """The class token's query and its row of attention."""
    return 2 * recipe.embed_dim * recipe.embed_dim + 2 * tokens * recipe.embed_dim
