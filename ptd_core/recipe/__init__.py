"""The recipe of a run, from every setting to whatever follows from it.

Read in this order: `settings` (the list), `parts` (what each part of the library is handed), `consistent` (what the
values say together), `recipe` (what follows, and the ways in).
"""

from ptd_core.recipe.recipe import Recipe, parameters_cell

__all__ = ["Recipe", "parameters_cell"]
