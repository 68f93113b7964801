"""One run: its settings, what follows from them, and the ways in.

Notebooks, YAML files and the command line all end here. Values are checked strictly, before any data is read;
a refusal names the parameter, what came and what is allowed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

from pydantic import PrivateAttr, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticUndefined

from ptd_core import cost
from ptd_core.errors import RecipeError
from ptd_core.parameters import decimals, explain, read_parameters, stages
from ptd_core.recipe.consistent import check
from ptd_core.recipe.parts import Parts
from ptd_core.recipe.settings import LATER, PLACE
from ptd_core.token_drop import Keep
from ptd_core.vits.weights import digest_of


class Recipe(Parts):
    """One run. The defaults train a small model with token drop on generated shapes, in minutes on a laptop.

    Raises RecipeError (never pydantic's own error) through `from_values` and `from_yaml`.
    """

    _weights_digest: str = PrivateAttr("")  # of the file as it was when the recipe was made

    @model_validator(mode="after")
    def _consistent(self):
        check(self)
        if self.weights:
            self._weights_digest = digest_of(self.weights)
        return self

    # what follows from the values

    def side(self, epoch: int) -> int:
        """The side in pixels of training images in an epoch; evaluation always sees image_size."""
        sizes = stages(self.size_stages)
        return int(sizes.at(epoch, self.epochs)) if sizes else self.image_size

    @property
    def sides(self) -> list[int]:
        """`side` of every epoch."""
        return [self.side(epoch) for epoch in range(self.epochs)]

    def grid_at(self, side: int) -> int:
        """Patch tokens a side of an image of that side in pixels."""
        return side // self.vit.stride

    def keep_at(self, ratio: float, side: int | None = None) -> Keep | None:
        """What a TokenDropViT is told at a drop ratio: kept patch tokens of each dropping block, None for all.

        side: of the images in pixels, by default image_size. Raises ValueError if a factor in drop_shares would make
        the ratio 1 or more.
        """
        schedule, drop = self.schedule, self.token_drop
        tokens, keep, dropping = self.grid_at(side or self.image_size) ** 2, [], False
        for share in decimals(self.drop_shares) or (1.0,) * len(drop.blocks):
            if share * ratio >= 1:
                raise ValueError(f"{share} of drop_shares times a drop ratio of {ratio:.4g} leaves no token")
            keep.append(drop.nearest(schedule.kept_at_ratio(share * ratio, tokens), tokens))
            dropping |= keep[-1] < tokens
            tokens = drop.left(keep[-1], tokens)
        return tuple(keep) if dropping else None

    def keep(self, epoch: int) -> Keep | None:
        """`keep_at` the ratio and the side of an epoch."""
        return self.keep_at(self.schedule.ratio(epoch), self.side(epoch))

    @property
    def keeps(self) -> list[Keep | None]:
        """`keep` of every epoch."""
        schedule = self.schedule
        passes = [(schedule.ratio(epoch), side) for epoch, side in enumerate(self.sides)]
        found = {one: self.keep_at(*one) for one in set(passes)}  # most of many epochs are like others
        return [found[one] for one in passes]

    def kept_tokens(self, epoch: int) -> int:
        """Patch tokens that the last dropping block keeps in an epoch."""
        keep = self.keep(epoch)
        return keep[-1] if keep else self.grid_at(self.side(epoch)) ** 2

    def evaluated_images(self, train: int, test: int) -> int:
        """Forward passes of one evaluation: the test images once or twice, and as many training images."""
        return test * (2 if self.ema_decay else 1) + min(test, train)

    def steps(self, train_images: int) -> int:
        """Steps of an epoch, where there are so many training images."""
        return (self.epoch_images or train_images) // self.batch_size

    def keeps_weights(self, epochs: int) -> bool:
        """Whether the weights after so many epochs are kept in a file of their own."""
        return epochs == 1 or (self.weights_every > 0 and epochs % self.weights_every == 0)

    def cost(self, classes: int, keep: Keep | None = None) -> cost.Cost:
        """Operations of one image of image_size, forward and in training, with `keep` patch tokens; None: all."""
        return cost.cost(self.vit, classes, self.token_drop, keep, **self._cost_details)

    def training_costs(self, classes: int) -> list[int]:
        """Training operations per image in each epoch."""
        return cost.training_costs(self.vit, classes, self.token_drop, self.keeps, self.sides, **self._cost_details)

    def training_cost(self, classes: int) -> tuple[int, int]:
        """Training operations per image summed over epochs: as it is, and with all tokens of whole images."""
        return cost.run_training_cost(self.vit, classes, self.token_drop, self.keeps, self.sides, **self._cost_details)

    @property
    def _cost_details(self) -> dict[str, int]:
        return {"frozen_blocks": self.frozen_blocks, "score_block": self.drop_score_block}

    @property
    def chapter(self) -> str:
        """The chapter that this run belongs to: "ptd" if it ever asks for token drop, else "baseline"."""
        return "ptd" if any(map(any, self.schedule.given_ratios.values())) else "baseline"

    @property
    def run_name(self) -> str:
        return self.run or f"{self.chapter}_{self.dataset}_{self.fingerprint}"

    @property
    def fingerprint(self) -> str:
        """Six hexadecimal digits of everything that decides the result (not where it is read, run or written)."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:6]

    def settings(self) -> dict[str, Any]:
        """The parameters that decide the result: all but names of places and devices; of weights the digest.

        A recipe of these values has the same settings, but cannot begin training with weights.
        """
        found = {name: getattr(self, name) for name in self.deciding()}
        found["weights"] = self._weights_digest
        fields = type(self).model_fields
        return {
            name: value
            for name, value in found.items()
            if fields[name].json_schema_extra is not LATER or value != fields[name].default
        }

    @classmethod
    def deciding(cls) -> list[str]:
        """The names of the parameters that decide the result."""
        return [name for name, field in cls.model_fields.items() if field.json_schema_extra is not PLACE]

    @classmethod
    def token_settings(cls) -> list[str]:
        """The names of the parameters that decide how many tokens a block sees: of token drop and of image sizes."""
        return [name for name in cls.model_fields if name.startswith(("drop_", "size_")) and name != "drop_path"]

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with other values, checked as every recipe is. Raises RecipeError."""
        return type(self).from_values({**self.model_dump(), **changes})

    def overridden(self, overrides: list[str]) -> "Recipe":
        """A copy with other values from `name=value` texts of a command line. Raises RecipeError."""
        return type(self).from_values({**self.model_dump(), **self.values_of(overrides)}, source="command line")

    def model_copy(self, *, update: dict[str, Any] | None = None, deep: bool = False) -> "Recipe":
        """pydantic's own, which would not check; values here are plain, so `deep` changes nothing."""
        return self.replace(**(update or {}))

    # ways in

    @classmethod
    def from_values(cls, values: dict[str, Any], source: str = "parameters") -> "Recipe":
        """A recipe from Python values, checked strictly. `source` is named in the refusal."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(explain(error, source, cls.model_fields)) from None

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: list[str] = ()) -> "Recipe":
        """A recipe from a YAML file of `name: value` lines, then `name=value` texts from a command line.

        Raises RecipeError for anything that is not a valid recipe, also for a file that cannot be read.
        """
        return cls.from_values({**read_parameters(Path(path)), **cls.values_of(overrides)}, source=str(path))

    @classmethod
    def values_of(cls, overrides: list[str]) -> dict[str, Any]:
        """Values from `name=value` texts, each read as its parameter's type (so 4e-4 is a number here).

        What cannot be read stays text, for the recipe's check to explain. Raises RecipeError for a text that is no
        name=value, or a name given twice.
        """
        values = {}
        for text in overrides:
            name, equals, value = text.partition("=")
            if not equals:
                raise RecipeError(f"command line: {text!r} should be name=value")
            if name in values:
                raise RecipeError(f"command line: {name} is given twice; keep one of them")
            field = cls.model_fields.get(name)
            if field is None:
                values[name] = value
                continue
            choices = {str(choice): choice for choice in get_args(field.annotation)}
            if value in choices:  # pydantic takes no number of a Literal from text
                values[name] = choices[value]
                continue
            try:
                values[name] = TypeAdapter(field.annotation).validate_strings(value, strict=False)
            except ValidationError:
                values[name] = value  # left as text: the strict check that follows explains it
        return values


def parameters_cell(**defaults) -> str:
    """The source of a chapter's parameters cell: one `name: type = value  # help` a line, as papermill reads it."""
    lines = []
    for name, field in Recipe.model_fields.items():
        kind = type(get_args(field.annotation)[0]) if get_args(field.annotation) else field.annotation
        assert field.default is not PydanticUndefined
        value = (
            json.dumps(defaults.get(name, field.default)) if kind is str else repr(defaults.get(name, field.default))
        )
        lines.append(f"{name}: {kind.__name__} = {value}  # {field.description}")
    return "\n".join(lines)
