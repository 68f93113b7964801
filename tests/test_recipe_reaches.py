"""Every setting of a recipe has a check that it reaches what it sets, in one of four files."""

from itertools import chain

import test_reach_of_data
import test_reach_of_model
import test_reach_of_run_and_training
import test_reach_of_token_drop

from ptd_core.recipe import Recipe

PARTS = (test_reach_of_run_and_training, test_reach_of_data, test_reach_of_model, test_reach_of_token_drop)


def test_every_setting_has_a_check():
    names = list(chain.from_iterable(part.CHECKS for part in PARTS))
    assert sorted(names) == sorted(Recipe.model_fields)
