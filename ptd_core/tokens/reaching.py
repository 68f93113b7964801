"""How many patch tokens come to each of the blocks that drop some."""

from collections.abc import Callable

Keep = tuple[int, ...]  # kept patch tokens, one number for each block that drops


def tokens_reaching(
    blocks: tuple[int, ...], keep: Keep, patch_tokens: int, left: Callable[[int, int], int] = lambda kept, _: kept
) -> list[int]:
    """Patch tokens that reach each of some blocks, if left(kept, tokens) go on from one that keeps so many of them.

    Raises ValueError unless keep has one number for each block, from 1 to what reaches it.
    """
    if not isinstance(keep, (tuple, list)) or len(keep) != len(blocks):
        raise ValueError(f"keep must be a tuple, one number for each of the blocks {blocks}; got {keep}")
    found = []
    for kept in keep:
        found.append(patch_tokens)
        if not 1 <= kept <= patch_tokens:
            raise ValueError(f"keep must be from 1 to the {patch_tokens} patch tokens; got {kept}")
        patch_tokens = left(kept, patch_tokens)
    return found
