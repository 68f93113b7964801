"""A chapter's parameters, read from the names that its parameters cell leaves in the kernel.

The recipe is what the cell says, every time it is run: also the second time in one kernel, when the names of the
first run are still there.
"""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from ptd_core.errors import RecipeError
from ptd_core.parameters import plain
from ptd_core.recipe import Recipe

_PLAIN = (str, bytes, int, float, complex, bool, list, tuple, set, dict, range, type(None))
_NEAR = 0.8  # likeness from which a name counts as a misspelt parameter: drop_finl, batchsize, not data or keep


class Names:
    """The names that exist before a parameters cell; whatever value comes after them is meant as a parameter."""

    def __init__(self, known: set[str]):
        self.known = known
        self.refused: set[str] = set()
        self.read = False

    def __contains__(self, name: str) -> bool:
        return name in self.known


def names(namespace: dict[str, Any], parameters: Iterable[str] = tuple(Recipe.model_fields)) -> Names:
    """The names in `namespace` before its parameters cell; parameters: those that the cell may set.

    Removes from it what an earlier run left of that cell, parameters and refused names: a line that the reader
    has deleted since then must not count any more, and one that is still misspelt must count again.
    """
    leftovers = set(parameters)
    for value in list(namespace.values()):
        if isinstance(value, Names):
            leftovers |= value.refused
    for name in leftovers & set(namespace):
        del namespace[name]
    return Names(set(namespace))


def read_recipe(namespace: dict[str, Any], before: Names, chapter: str) -> Recipe:
    """The recipe that a chapter's parameters cell, and the cell that papermill puts after it, have spelt out.

    A parameter's name is read whatever its value is: numbers of NumPy, paths and fractions are taken as what they
    are. papermill only warns of unknown names; here they stop the chapter. Once the recipe has been read, the
    later cells have names of their own, and only misspelt parameters are unknown. Raises RecipeError for these,
    for values that are not allowed, and in the chapter "baseline" for token drop.
    """
    recipe = Recipe.from_values(given_values(namespace, before, Recipe.model_fields), source="parameters")
    if chapter == "baseline" and recipe.chapter != "baseline":
        asked = [f"drop_{name}" for name in recipe.schedule.given_ratios]
        drops = ", ".join(f"{name} = {getattr(recipe, name)}" for name in asked)
        none = "leave out drop_shape and drop_stages" if "drop_stages" in asked else "set both to 0"
        raise RecipeError(f"parameters: {drops}: this chapter trains with all tokens; {none}, or use the chapter ptd")
    before.read = True
    return recipe


def given_values(namespace: dict[str, Any], before: Names, parameters: Iterable[str]) -> dict[str, Any]:
    """The values of these parameters, and whatever else looks as if it were meant as one: that is to be refused."""
    values = {name: namespace[name] for name in parameters if name in namespace}
    unknown = {name: value for name, value in namespace.items() if _unknown(name, value, before, parameters)}
    before.refused |= set(unknown)
    return {**values, **unknown}


def _unknown(name: str, value: Any, before: Names, parameters: Iterable[str]) -> bool:
    """Whether a name that is no parameter looks as if it were meant as one."""
    if name in parameters or name in before or name.startswith(("_", "PAPERMILL_")):
        return False  # PAPERMILL_...: papermill's own, from --inject-paths
    if inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, Names):
        return False  # from an import or a definition
    near = bool(difflib.get_close_matches(name, parameters, n=1, cutoff=_NEAR))
    return near or (not before.read and isinstance(plain(value), _PLAIN))
