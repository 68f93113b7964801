"""What a sweep file may say: its lines, and the names in them."""

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ptd_core.errors import RecipeError, SweepError, did_you_mean
from ptd_core.parameters import read_parameters
from ptd_core.recipe import Recipe
from ptd_core.records.folders import NAME

FACTORS = sorted(set(Recipe.deciding()) - {"seed"})  # what decides a result; a sweep varies nothing else


class SweepFile(BaseModel):
    """The lines of a sweep file; `plan` says what they mean."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    base: str | list[str] = Field(description="a parameter file or a list of them")
    fixed: dict[str, Any] = Field({}, description="parameter: value lines")
    factors: dict[str, list[Any]] = Field({}, description="parameter: [value, ...] lines")
    arms: dict[str, dict[str, Any]] = Field({}, description="name: {parameter: value, ...} lines")
    controls: dict[str, list[str]] = Field({}, description="arm: [arm, ...] lines")
    seeds: list[int] = Field(min_length=1, description="a list of integers, such as [0, 1, 2]")


def read_file(path: Path, overrides: list[str] = ()) -> SweepFile:
    """What a sweep file says, before any run is made of it; overrides: name=value texts of the command line.

    Raises SweepError for what is no line of such a file, and for names that cannot stand where they do.
    """
    try:
        values = read_parameters(path)
    except RecipeError as error:
        raise SweepError(str(error)) from None
    try:
        content = SweepFile.model_validate(values)
    except ValidationError as error:
        raise SweepError(f"{path}: " + "\n  ".join(_explain(item) for item in error.errors())) from None
    if not content.base:
        raise SweepError(f"{path}: base must be {SweepFile.model_fields['base'].description}; got {content.base!r}")
    for name, levels in content.factors.items():
        if not levels:
            raise SweepError(f"{path}: factor {name} lists no value")
    _check_names(path, content, overrides)
    return content


def _explain(item: dict) -> str:
    """What pydantic found at one place of a sweep file, in the words of the file."""
    known = "; ".join(f"{name}: {field.description}" for name, field in SweepFile.model_fields.items())
    name = str(item["loc"][0])
    if name not in SweepFile.model_fields:
        return f"{name} is not a line of a sweep file; known are {known}"
    came = "nothing" if item["type"] == "missing" else repr(item["input"])
    return f"{name} must be {SweepFile.model_fields[name].description}; got {came}"


def _check_names(path: Path, content: SweepFile, overrides: list[str]) -> None:
    varied = {name: f"set by arm {arm}" for arm, values in content.arms.items() for name in values}
    for name in [*content.factors, *varied]:
        if name not in FACTORS:
            near = difflib.get_close_matches(name, FACTORS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(FACTORS)}"
            why = "seeds have a line of their own" if name == "seed" else hint
            raise SweepError(f"{path}: {name} cannot be {varied.get(name, 'a factor')}; {why}")
    for arm in content.arms:
        if not NAME.fullmatch(arm):
            raise SweepError(f"{path}: an arm's name is part of a folder's and must match {NAME.pattern}; got {arm!r}")
    for arm, controls in content.controls.items():
        for name in (arm, *controls):
            if name not in content.arms:
                hint = did_you_mean(name, tuple(content.arms)) or f"its arms are {', '.join(content.arms) or 'none'}"
                raise SweepError(f"{path}: controls: {name!r} is no arm of this sweep; {hint}")
        if arm in controls:
            raise SweepError(f"{path}: controls: {arm} cannot be its own control")
    given = {
        "an arm": list(varied),
        "fixed": list(content.fixed),
        "command line": [text.partition("=")[0] for text in overrides],
    }
    for where, names in given.items():
        for name in names:
            if name in content.factors:
                raise SweepError(f"{path}: {name} is a factor; {where} must not set it too")
            if where == "command line" and name in varied:
                raise SweepError(f"{path}: {name} is {varied[name]}; the command line must not set it too")
            if name in ("run", "seed"):
                raise SweepError(f"{path}: {where} must not set {name}: a sweep names its runs and lists its seeds")
