"""Ways of evaluating a model with fewer tokens, as recipes: what a run was trained with, or what is asked for instead.

Several values of a setting are written `name=value,value`; all combinations that mean something are evaluated.
"""

import itertools
import re
from dataclasses import dataclass

from ptd_core.errors import RecipeError, did_you_mean
from ptd_core.evaluation.methods import keep_of
from ptd_core.recipe import Recipe
from ptd_core.token_drop import Keep

# Of the method token_drop alone; the others have their own.
_OWN = ("drop_score", "drop_score_block", "drop_choice", "drop_fate", "drop_attended", "drop_until")
_PLACE = ("drop_block", "drop_blocks", "drop_shares")
SEVERAL = ("drop_method", "drop_block", *_OWN)  # may have several values
POLICY = tuple(dict.fromkeys((*SEVERAL, *_PLACE, "drop_multiple")))
NO_DROP = {  # a schedule that drops nothing
    "drop_init": 0.0, "drop_final": 0.0, "drop_shape": "polynomial", "drop_stages": "", "drop_cycle": 0, "drop_tail": 0,
}  # fmt: skip
_STILL = NO_DROP | {"size_stages": "", "rand_ops": 0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}  # and images as they are
_ONLY_FOR = (("drop_score_block", "drop_score", "averaged_attention"), ("drop_until", "drop_fate", "bypass"))
_DEFAULTS = {name: field.default for name, field in Recipe.model_fields.items()}


@dataclass(frozen=True)
class Point:
    """One way of evaluating a run. policy: the recipe with the settings of token drop. share: of the patch tokens, as
    asked for. keep: what the network is told; None for all tokens."""

    policy: Recipe
    share: float
    keep: Keep | None

    @property
    def kept(self) -> int:
        """Patch tokens that the last dropping block keeps."""
        return self.keep[-1] if self.keep else self.policy.vit.patch_tokens


def policies(recipe: Recipe, settings: list[str]) -> list[Recipe]:
    """The recipe of a run with each combination of the settings, `name=value,value` texts, in place of its own.

    A setting that a combination has no use for, such as the score of a method that has its own, is left out of it.
    Raises RecipeError for settings that are none of token drop's policy, and for what contradicts itself.
    """
    choices: dict[str, list[str]] = {}
    for text in settings:
        name, equals, values = text.partition("=")
        if not equals:
            raise RecipeError(f"command line: {text!r} should be name=value")
        if name not in POLICY:
            hint = did_you_mean(name, POLICY) or f"known: keep, {', '.join(POLICY)}"
            raise RecipeError(f"{name} is no setting of an evaluation; {hint}")
        if name in choices:
            raise RecipeError(f"command line: {name} is given twice; several values are written {name}=A,B")
        choices[name] = values.split(",") if name in SEVERAL else [values]
    found = []
    for values in itertools.product(*choices.values()):
        one = _policy(recipe, dict(zip(choices, values)))
        if one not in found:
            found.append(one)
    return found


def points(policy: Recipe, keeps: list[str]) -> list[Point]:
    """A policy with each share or number of kept tokens, most first; those that come to the same tokens once.

    keeps: ".5" is half of the patch tokens, "32" so many, "1" all; or as many as drop_multiple and the method allow.
    With several dropping blocks a share is that of each drop, whose ratio is multiplied by its factor in drop_shares,
    and a number is what the last one keeps.
    Raises RecipeError for anything else and for what the policy cannot keep.
    """
    tokens, found = policy.vit.patch_tokens, {}
    for text in keeps:
        if not re.fullmatch(r"[0-9]{1,9}|[0-9]?\.[0-9]+", text) or not 0 < float(text) <= tokens:
            raise RecipeError(f"keep = {text!r}: should be a share such as 0.5, or 1 to {tokens} tokens (1: all)")
        if "." in text and float(text) > 1:
            raise RecipeError(f"keep = {text!r}: a share is at most 1; whole numbers above 1 are tokens")
        number = "." not in text and text != "1"
        share = int(text) / tokens if number else float(text)
        try:
            several = number and len(policy.token_drop.blocks) > 1
            keep = keep_of(policy, share) if several else policy.keep_at(1 - share)
            if keep:
                policy.token_drop.reaching(keep, tokens)
        except ValueError as error:
            raise RecipeError(f"keep = {text!r}: {error}") from None
        found.setdefault(keep, Point(policy, share, keep))
    return sorted(found.values(), key=lambda point: point.kept, reverse=True)


def _policy(recipe: Recipe, asked: dict[str, str]) -> Recipe:
    method = asked.get("drop_method", recipe.drop_method)
    values = dict(_STILL)
    if method != recipe.drop_method:  # its settings mean nothing to another method
        values |= {name: _DEFAULTS[name] for name in (*_OWN, "drop_blocks", "drop_shares")}
    if method != "token_drop":
        asked = {name: value for name, value in asked.items() if name not in _OWN}
    if method == "tome":  # it merges in every block
        asked = {name: value for name, value in asked.items() if name not in _PLACE} | {"drop_block": "0"}
    if "drop_block" in asked:
        values |= {"drop_blocks": "", "drop_shares": ""}
    elif "drop_blocks" in asked:
        values |= {"drop_block": 0, "drop_shares": ""}
    for name, of, needed in _ONLY_FOR:
        if asked.get(of, getattr(recipe, of)) != needed:
            values[name] = _DEFAULTS[name]
            asked = {other: value for other, value in asked.items() if other != name}
    policy = recipe.replace(**values).overridden([f"{name}={value}" for name, value in asked.items()])
    if policy.drop_method not in ("token_drop", "tome"):
        raise RecipeError(
            f"drop_method = {policy.drop_method!r}: has weights of its own, which a run's weights leave out; "
            "evaluate with drop_method=token_drop or drop_method=tome"
        )
    return policy
