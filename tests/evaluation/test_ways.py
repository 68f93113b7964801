"""Settings of an evaluation: which ways of dropping tokens come out of them, and which are refused."""

import pytest

from ptd_core.errors import RecipeError
from ptd_core.evaluation.policies import points, policies
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe


def ways(recipe, *settings):
    return [(p.drop_method, p.drop_score, p.drop_fate, p.token_drop.blocks) for p in policies(recipe, list(settings))]


def test_a_run_is_evaluated_as_it_was_trained_unless_asked_otherwise(tiny):
    recipe = tiny(drop_score="norm", drop_fate="fuse", drop_block=1, rand_ops=2, size_stages="8/16 at 50/50")
    (policy,) = policies(recipe, [])
    assert ways(recipe) == [("token_drop", "norm", "fuse", (1,))]
    assert policy.keeps == [None] * 3 and policy.sides == [16] * 3  # nothing of its schedule is left
    assert ways(recipe, "drop_score=random") == [("token_drop", "random", "fuse", (1,))]


def test_all_combinations_that_mean_something(tiny):
    found = ways(tiny(), "drop_method=token_drop,tome", "drop_score=norm,random", "drop_block=0,1")
    dropping = [("token_drop", score, "discard", (block,)) for score in ("norm", "random") for block in (0, 1)]
    assert found == [*dropping, ("tome", "class_attention", "discard", (0,))]  # which has no score, and every block
    assert ways(tiny(drop_blocks="0, 1"), "drop_method=tome") == found[-1:]
    looks = policies(tiny(), ["drop_score=norm,averaged_attention", "drop_score_block=0,1"])
    assert [(p.drop_score, p.drop_score_block) for p in looks] == [
        ("norm", -1), ("averaged_attention", 0), ("averaged_attention", 1),
    ]  # fmt: skip
    routes = policies(tiny(), ["drop_fate=discard,bypass", "drop_until=2"])
    assert [(p.drop_fate, p.drop_until) for p in routes] == [("discard", -1), ("bypass", 2)]


def test_blocks_asked_for_replace_all_of_the_runs_own(tiny):
    several = tiny(drop_blocks="0, 1", drop_shares="1, 1.5")
    assert ways(several, "drop_block=1") == [("token_drop", "class_attention", "discard", (1,))]
    (policy,) = policies(tiny(drop_block=1), ["drop_blocks=0, 1"])
    assert policy.token_drop.blocks == (0, 1) and points(policy, [".5"])[0].keep == (32, 16)


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "parameters" / "space").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_method_can_be_evaluated_or_says_why_not(path):
    recipe = Recipe.from_yaml(path)
    if recipe.drop_method in ("evo_vit", "dynamicvit"):
        with pytest.raises(RecipeError, match=f"{recipe.drop_method}.*weights of its own.*drop_method=token_drop"):
            policies(recipe, [])
    else:
        assert points(policies(recipe, [])[0], ["1", ".75"])[0].keep is None
    assert [p.drop_method for p in policies(recipe, ["drop_method=token_drop,tome"])] == ["token_drop", "tome"]


def test_a_number_is_what_the_last_of_several_blocks_keeps(tiny):
    (policy,) = policies(tiny(drop_blocks="0, 1"), [])
    assert points(policy, ["63"])[0].keep is None  # as soon as each drops one, 62 are left
    for kept in range(2, 63):
        (point,) = points(policy, [str(kept)])
        reached, left = point.keep
        assert left == kept and 64 * left == pytest.approx(reached**2, rel=0.2)  # both drop about as large a share
    (policy,) = policies(tiny(drop_blocks="0, 1", image_size=20), [])
    assert [points(policy, [str(kept)])[0].kept for kept in range(2, 99)] == [*range(2, 99)]  # 28 / 100 * 100 > 28
    (policy,) = policies(tiny(drop_blocks="0, 1", drop_shares="1, 1.5"), [])
    assert [point.kept for point in points(policy, ["48", "2", "64"])] == [64, 48, 2]
    assert points(policy, [".75"])[0].keep == (48, 30)  # a share is that of each drop


def test_kept_tokens_are_shares_or_numbers(tiny):
    (policy,) = policies(tiny(), [])
    for kept in range(2, 64):
        assert points(policy, [str(kept)])[0].keep == (kept,)
    found = points(policy, [".25", "1", "1.0", "64", "16", ".2500", ".5"])
    assert [(point.kept, point.keep) for point in found] == [(64, None), (32, (32,)), (16, (16,))]


@pytest.mark.parametrize("keep", ["0", ".0", "1.5", "65", "-1", "half", "", "nan", "1e-1"])
def test_kept_tokens_that_are_none_are_refused(tiny, keep):
    with pytest.raises(RecipeError, match="keep = "):
        points(policies(tiny(), [])[0], [keep])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["drop_scor=norm"], "did you mean drop_score"),
        (["epochs=3"], "epochs is no setting of an evaluation; known: keep, drop_method"),
        (
            ["drop_score=norm", "drop_score=random"],
            "given twice; several values are written drop_score=A,B",
        ),
        (["drop_score=clas_attention"], "did you mean class_attention"),
        (["drop_block=0,7"], "drop_block must be from 0 to 1"),
        (["drop_score"], "should be name=value"),
        (["drop_method=tome,evo_vit", "drop_block=1"], "evo_vit.*weights of its own"),
    ],
)
def test_settings_that_are_none_are_refused(tiny, settings, said):
    with pytest.raises(RecipeError, match=said):
        policies(tiny(), settings)


def test_factors_that_leave_no_token_are_refused_as_in_training(tiny):
    """2.2 x .5 is above 1: it was one token, silently."""
    recipe = tiny(drop_blocks="0, 1", drop_shares="1, 2.2", drop_final=0.3)
    assert points(recipe, [".6"])[0].keep == (38, 4)
    with pytest.raises(RecipeError, match=r"keep = '.5': 2.2 of drop_shares times a drop ratio of 0.5 leaves no token"):
        points(recipe, [".5"])
