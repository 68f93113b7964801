"""The published methods of parameters/space, as recipes."""

import itertools
from pathlib import Path

from ptd_core.errors import RecipeError
from ptd_core.parameters import read_parameters
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.tokens.reaching import Keep

METHODS = PROJECT_ROOT / "parameters" / "space"
_OURS = {  # token drop's settings
    name: field.default
    for name, field in Recipe.model_fields.items()
    if name.startswith("drop_") and name != "drop_path"
}


def methods(base: Recipe, folder: Path = METHODS, refused: dict[str, str] | None = None) -> dict[str, Recipe]:
    """Each method by its file's name: the base with that file's settings of token drop in place of its own.

    Raises RecipeError for one that the base cannot have, such as a block that it lacks or a score that asks for a class
    token; refused: a dict that gets the reasons instead. Also if there are no such files.
    """
    found = {}
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise RecipeError(f"{folder}: the parameter files of the methods are not there; they come with the checkout")
    for file in files:
        own = {name: value for name, value in read_parameters(file).items() if name in _OURS}
        try:
            found[file.stem] = Recipe.from_values({**base.model_dump(), **_OURS, **own}, source=file.name)
        except RecipeError as error:
            if refused is None:
                raise
            refused[file.stem] = str(error)
    return found


def keep_of(recipe: Recipe, share: float = 0.5) -> Keep | None:
    """What the recipe's policy keeps so that its last dropping block lets out `share` of the patch tokens.

    With several blocks each drops equally much of what reaches it. The nearest number above, where that one cannot be
    kept; None if that is all of them.
    """
    wanted = share * recipe.vit.patch_tokens
    ratios = (step / 1000 for step in range(1, 1000))
    keeps = (keep for keep in map(recipe.keep_at, ratios) if keep)
    enough = list(itertools.takewhile(lambda keep: keep[-1] >= wanted, keeps))
    return enough[-1] if enough else None
