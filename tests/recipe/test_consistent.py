"""What settings say together: what is refused, with which words, and what only looks as if it should be."""

import pytest

from ptd_core.errors import RecipeError
from ptd_core.recipe import Recipe


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"drop_finl": 0.3}, ["drop_finl", "0.3", "did you mean drop_final?"]),
        ({"zzz": 1}, ["zzz", "known:", "drop_block"]),
        ({"lr": "4e-4 or so"}, ["lr", "a valid number", "'4e-4 or so'"]),
        ({"lr": 0.0}, ["lr", "greater than 0", "0.0"]),
        ({"lr": float("nan")}, ["lr", "nan"]),
        ({"lr": True}, ["lr", "a valid number", "True"]),
        ({"epochs": 0}, ["epochs", "greater than or equal to 1", "got 0", "passes over the training images"]),
        ({"epochs": 2.5}, ["epochs", "a valid integer", "2.5"]),
        ({"epochs": True}, ["epochs", "a valid integer", "True"]),
        ({"epochs": None}, ["epochs", "a valid integer", "None"]),
        ({"flip": 1}, ["flip", "a valid boolean", "got 1"]),
        ({"dataset": "mnist"}, ["dataset", "'shapes', 'cifar100', 'cifar10', 'folder' or 'parquet'", "'mnist'"]),
        ({"run": "../elsewhere"}, ["run", "'../elsewhere'"]),
        ({"device": "gpu"}, ["device", "cuda", "'gpu'"]),
        ({"drop_final": 1.0}, ["drop_final", "less than 1", "1.0"]),
        ({"rand_magnitude": 31}, ["rand_magnitude", "less than or equal to 30", "31"]),
        ({"embed_dim": 65}, ["embed_dim = 65", "num_heads", "multiple"]),
        ({"image_size": 33}, ["image_size = 33", "stem_stride", "multiple"]),
        ({"drop_start": 8, "drop_end": 7}, ["drop_start = 8", "drop_end = 7", "before"]),
        ({"drop_final": 0.999}, ["drop_final = 0.999", "less than one"]),
        ({"drop_block": 64}, ["drop_block = 64", "depth", "from 0 to"]),
        ({"drop_method": "evovit"}, ["drop_method", "'evovit'", "did you mean evo_vit?"]),
        ({"drop_method": "tome", "drop_fate": "fuse"}, ["drop_method = 'tome'", "drop_fate = 'fuse'", "has its own"]),
        ({"drop_method": "tome", "drop_final": 0.95}, ["drop_final = 0.95", "depth = 4", "leaves more"]),
        (
            {"drop_method": "tome", "drop_shape": "steps", "drop_stages": ".05/1 at 1/1"},
            ["drop_method = 'tome', drop_stages = '.05/1 at 1/1', depth = 4", "leaves more"],
        ),
        ({"drop_method": "tome", "drop_blocks": "0, 1"}, ["drop_blocks = '0, 1'", "in every block"]),
        ({"drop_method": "tome", "drop_blocks": "2"}, ["drop_method = 'tome'", "drop_blocks = '2'", "in every block"]),
        ({"drop_method": "evo_vit", "drop_blocks": "1, 2"}, ["drop_blocks = (1, 2)", "one number of tokens"]),
        ({"drop_method": "evo_vit"}, ["drop_block must be from 1 to 3 for evo_vit; got 0"]),
        ({"drop_method": "dynamicvit", "ema_decay": 0.0}, ["dynamicvit", "ema_decay = 0.0", "teacher"]),
        ({"drop_score": "clas_attention"}, ["drop_score", "'oracle'", "did you mean class_attention?"]),
        ({"drop_fate": "merged"}, ["drop_fate", "'bypass'", "did you mean merge?"]),
        ({"drop_choice": "greedy"}, ["drop_choice = 'greedy'", "score must be 'distance'"]),
        ({"drop_choice": "sample", "drop_score": "inverse"}, ["drop_choice = 'sample'", "'inverse'"]),
        ({"drop_blocks": "3, 6"}, ["drop_blocks = '3, 6'", "depth = 4", "from 0 to 3"]),
        ({"drop_blocks": "2, 1"}, ["drop_blocks", "ascending", "(2, 1)"]),
        ({"drop_blocks": "one"}, ["drop_blocks", "whole numbers such as 3, 6, 9", "'one'"]),
        ({"drop_blocks": "1, 2", "drop_block": 1}, ["drop_block = 1", "drop_blocks = '1, 2'", "in one of them"]),
        ({"drop_shares": "1, 2"}, ["drop_block = 0", "drop_shares = '1, 2'", "one factor for each"]),
        ({"drop_blocks": "1, 2", "drop_shares": "1, 3"}, ["drop_shares", "drop_final = 0.35", "below 1"]),
        (
            {"drop_shape": "steps", "drop_stages": ".5/1 at 1/1", "drop_shares": "3"},
            ["drop_shares = '3', drop_stages = '.5/1 at 1/1': a factor"],
        ),
        (
            {"size_stages": "8/32 at 1/1", "drop_final": 0.8},
            ["drop_final = 0.8, size_stages = '8/32 at 1/1', stem_stride = 4: of 4 patch tokens"],
        ),
        ({"drop_multiple": 64}, ["drop_multiple = 64, image_size = 32, stem_stride = 4", "none would be dropped"]),
        ({"drop_shape": "steps"}, ["drop_shape = 'steps'", "drop_stages = ''", "needs drop_stages"]),
        ({"drop_stages": ".5/1 at 50/50"}, ["drop_stages", "and nothing else does"]),
        ({"drop_shape": "steps", "drop_stages": ".5, 1"}, ["drop_stages", ".5/.75/1 at 45/40/15", "got '.5, 1'"]),
        ({"drop_shape": "steps", "drop_stages": ".5/1 at 50"}, ["drop_stages", "one share", "got '.5/1 at 50'"]),
        ({"drop_shape": "steps", "drop_stages": "1.5 at 1"}, ["drop_stages", "kept shares, above 0 up to 1"]),
        ({"drop_shape": "cyclic"}, ["drop_cycle = 0", "cyclic needs drop_cycle"]),
        ({"drop_fate": "bypass", "drop_block": 3}, ["drop_block = 3", "depth = 4", "no block after it", "drop_until"]),
        ({"drop_fate": "bypass", "drop_block": 2, "drop_until": 1}, ["drop_until", "a block after 2"]),
        ({"drop_method": "tome", "drop_block": 1}, ["drop_method = 'tome'", "drop_block = 1", "in every block"]),
        ({"drop_method": "evo_vit", "depth": 1}, ["drop_method", "at least 2 blocks"]),
        (
            {"drop_shape": "flat", "drop_hold": False},
            ["drop_hold = False", "'polynomial' or 'cosine'", "tail"],
        ),
        ({"drop_shape": "reversed", "drop_hold": False}, ["drop_hold = False", "'reversed'"]),
        ({"drop_fate": "bypass", "drop_until": 5}, ["drop_until = 5", "4 is the end"]),
        ({"drop_fate": "bypass", "drop_blocks": "0, 1"}, ["drop_fate = 'bypass'", "one route"]),
        ({"drop_until": 2}, ["drop_until", "of fate = 'bypass' alone"]),
        ({"drop_score": "oracle", "dataset": "cifar10"}, ["drop_score = 'oracle'", "dataset = 'cifar10'"]),
        ({"drop_score": "oracle", "rand_ops": 1}, ["drop_score = 'oracle'", "rand_ops = 1", "do not follow"]),
        ({"drop_score": "oracle", "cutmix_alpha": 1.0}, ["drop_score = 'oracle'", "cutmix_alpha = 1.0"]),
        ({"drop_score": "averaged_attention", "ema_decay": 0.0}, ["averaged_attention", "ema_decay = 0.0"]),
        ({"drop_score_block": 1}, ["drop_score_block = 1", "only averaged_attention"]),
        ({"drop_score": "averaged_attention", "drop_score_block": 4}, ["drop_score_block = 4", "from 0 to 3"]),
        ({"size_stages": "24/28 at 1/1/1"}, ["size_stages", "one share"]),
        ({"drop_shape": "steps", "drop_stages": ".001/1 at 1/1"}, ["drop_stages", "less than one would be kept"]),
        ({"size_stages": "24.9/32 at 1/1"}, ["size_stages", "24.9 must be a whole number of pixels"]),
        ({"size_stages": "30/32 at 1/1"}, ["size_stages", "30 must be a multiple of stem_stride"]),
        ({"size_stages": "40/32 at 1/1"}, ["size_stages", "40 must be", "up to image_size"]),
        ({"batch_size": 63, "mixup_alpha": 0.8}, ["batch_size = 63", "mixup_alpha = 0.8", "even"]),
        ({"dataset": "cifar100", "image_size": 64}, ["dataset = 'cifar100'", "image_size = 64"]),
        ({"subset": 10, "batch_size": 64}, ["subset = 10", "batch_size = 64", "one batch"]),
        ({"images": "mapped"}, ["dataset = 'shapes'", "images = 'mapped'", "folder and parquet"]),
        ({"images": "mmap", "dataset": "folder"}, ["images", "'resident' or 'mapped'", "'mmap'"]),
        ({"label_column": "label"}, ["label_column = 'label'", "only parquet"]),
    ],
)
def test_bad_values_are_refused_by_name(values, words):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_values(values)
    for word in words:
        assert word in str(caught.value)


def test_ratios_that_a_shape_has_no_use_for_are_not_held_against_it():
    """Of one token none can be dropped, which steps of 1 do not."""
    recipe = Recipe(image_size=8, stem_stride=8, drop_shape="steps", drop_stages="1 at 1")
    assert recipe.drop_final > 0 and set(recipe.keeps) == {None}


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"drop_shape": "flat"}, [64, 41]),
        ({"drop_shape": "cyclic", "drop_cycle": 2}, [64, 64]),
        ({"drop_shape": "steps", "drop_stages": ".5/1 at 1/1"}, [32, 64]),
    ],
)
def test_shapes_without_an_end_may_start_after_it(values, kept):
    """The tenth epoch is after the default of drop_end."""
    assert [Recipe(drop_start=9, **values).kept_tokens(epoch) for epoch in (0, 9)] == kept
    with pytest.raises(RecipeError, match="drop_end must not come before drop_start"):
        Recipe.from_values({"drop_start": 9, "drop_shape": "reversed"})


def test_a_multiple_that_leaves_something_to_drop_is_taken():
    assert Recipe(drop_multiple=40).kept_tokens(9) == 40
    assert Recipe(drop_multiple=64, drop_final=0.0).keeps == [None] * 10
