"""The published methods as recipes on any model, and how many tokens a share is for each."""

import pytest

from ptd_core.errors import RecipeError
from ptd_core.evaluation.methods import keep_of, methods
from ptd_core.paths import PROJECT_ROOT
from ptd_core.recipe import Recipe

FILES = sorted(path.stem for path in (PROJECT_ROOT / "parameters" / "space").glob("*.yaml"))


@pytest.fixture
def base(tiny):
    return tiny(depth=6, mixup_alpha=0.0, cutmix_alpha=0.0, rand_ops=0)


def test_every_method_drops_as_its_file_says_and_keeps_half(base):
    found = {name: (recipe, keep_of(recipe)) for name, recipe in methods(base).items()}
    assert list(found) == FILES and FILES
    evit, keep = found["evit"]
    assert evit.token_drop.blocks == (1, 2, 3) and evit.drop_fate == "fuse"
    ratio = next(r / 1000 for r in range(999, 0, -1) if evit.keep_at(r / 1000)[-1] >= 32)
    assert keep == evit.keep_at(ratio) and keep[-1] == 32
    assert {name: keep[-1] for name, (_, keep) in found.items()} == {
        **dict.fromkeys(FILES, 32), "tome": 34,  # 64 less a multiple of 6 blocks
    }  # fmt: skip
    assert found["random_ltd"][1] == (32, 32)  # back after each block


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_what_is_kept_is_the_share_that_is_asked_for(base, share):
    assert keep_of(base.replace(drop_blocks="0, 1"), share)[-1] == 64 * share


def test_where_not_so_few_can_be_dropped_all_are_kept(base):
    assert keep_of(methods(base)["random_ltd"], 0.9) is None  # of 64 tokens, 56 would be the next multiple of 8
    assert keep_of(methods(base)["random_ltd"], 0.875) == (56, 56)


def test_a_model_that_cannot_have_a_method_says_why(tiny):
    shallow, reasons = tiny(depth=2), {}
    with pytest.raises(RecipeError, match=r"dynamicvit.yaml.*drop_blocks must be from 0 to 1"):
        methods(shallow)
    found = methods(shallow, refused=reasons)
    assert sorted([*found, *reasons]) == FILES
    assert set(reasons) == {"dynamicvit", "evit", "evo_vit", "random_ltd", "skipvit", "toe"}
    assert "evit.yaml" in reasons["evit"] and "'1, 2, 3'" in reasons["evit"]


def test_where_there_are_no_files_it_says_so(base, tmp_path):
    with pytest.raises(RecipeError, match="they come with the checkout"):
        methods(base, tmp_path)


def test_without_a_class_token_those_are_left_that_need_none():
    plain = Recipe(
        model="vit_tiny_patch16_224",
        model_args="class_token=false, global_pool=avg, patch_size=4, depth=4, embed_dim=24, num_heads=3",
        drop_score="norm",
    )
    reasons = {}
    assert set(methods(plain, refused=reasons)) == {"patchdropout", "pss", "random_ltd", "toe"}
    assert all("class token" in reasons[name] for name in ("ptd", "evit", "skipvit", "evo_vit", "tome"))
