"""The published methods of parameters/space, as recipes."""

from pathlib import Path

from ptd_core.errors import RecipeError
from ptd_core.parameters import read_parameters
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe
from ptd_core.schedule import SLIP
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

    With several blocks each drops equally much of what reaches it, times its factor in drop_shares. The nearest number
    above, where that one cannot be kept; None if that is all of them.
    """
    wanted = share * recipe.vit.patch_tokens - SLIP
    enough, too_much = 0.0, 1.0  # drop ratios; the higher one, the fewer tokens
    for _ in range(40):
        ratio = (enough + too_much) / 2
        if _let_out(recipe, ratio) >= wanted:
            enough = ratio
        else:
            too_much = ratio
    return recipe.keep_at(enough)


def _let_out(recipe: Recipe, ratio: float) -> int:
    """Patch tokens that the last dropping block keeps at a drop ratio; 0 if a factor makes that 1 or more."""
    try:
        keep = recipe.keep_at(ratio)
    except ValueError:
        return 0
    return keep[-1] if keep else recipe.vit.patch_tokens
