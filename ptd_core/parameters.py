"""Values of parameters from outside: YAML files of `name: value` lines, and what is wrong with values, in words."""

import argparse
import numbers
import os
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ptd_core.errors import RecipeError, did_you_mean
from ptd_core.schedule import Stages

MAX_BYTES = 100_000  # the longest file of this project has 2,000
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SURPRISE = re.compile(r"[-+]?(0[0-9_]+|[0-9_]+(:[0-9._]+)+)")  # octal and sexagesimal numbers
_DECIMAL = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases: a few lines of them can stand for billions of values."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"alias *{event.anchor} in line {event.start_mark.line + 1}; write the value itself")
        return super().compose_node(parent, index)


# papermill's reading: a date is text
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_parameters(path: Path) -> dict[str, Any]:
    """{parameter: value} as YAML 1.1 reads them; their meaning is not checked here.

    Raises RecipeError for a file that cannot be read, is no such YAML, or gives a parameter twice, where YAML
    itself would silently take the last one.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: bytes that no name can have
        raise RecipeError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path}: has more than {MAX_BYTES:,} bytes; that is not a parameter file")
    try:
        return _read_lines(path, _Loader(content.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise RecipeError(f"{path}: expected lines of the form `name: value`, got deeply nested ones") from None


def _read_lines(path: Path, loader: _Loader) -> dict[str, Any]:
    root = loader.get_single_node()
    if root is None:
        return {}
    if root.tag != "tag:yaml.org,2002:map":
        raise RecipeError(f"{path}: expected lines of the form `name: value`, got {root.tag.rpartition(':')[2]}")
    values, lines = {}, {}
    for key, value in root.value:
        name, line = key.value, key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise RecipeError(f"{path}, line {line}: expected a line of the form `name: value`")
        if name in values:
            raise RecipeError(f"{path}: {name} is given twice, in lines {lines[name]} and {line}; keep one of them")
        try:
            values[name], lines[name] = loader.construct_object(value, deep=True), line
            if value.tag.endswith((":int", ":float")) and _SURPRISE.fullmatch(value.value):
                raise ValueError(f"YAML takes {value.value} for {values[name]}; write the number itself")
        except yaml.MarkedYAMLError as error:
            raise RecipeError(f"{path}, line {line}: {name} has a value that is not plain: {error.problem}") from None
        except Exception as error:  # 2026-99-99, 5,000 digits, !!float '': PyYAML leaves such errors to its callers
            raise RecipeError(f"{path}, line {line}: {name} has a value that cannot be read ({error})") from None
    return values


def plain(value: Any) -> Any:
    """Numbers and paths of other types as Python's own: NumPy and torch scalars, Decimal, Fraction, Path.

    Anything else comes back as it is, for the strict check to refuse.
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # NumPy's and torch's scalars
        value = value.item()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, Decimal)):
        return value
    try:
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    except (ValueError, OverflowError):
        return value


def fitted(value: Any, kind: Any) -> Any:
    """`value` as the parameter's type, where it can only mean one thing; else as it came.

    YAML 1.1, which papermill reads too, takes `4e-4` and `1e1` for text and `off`, `no`, `on` and `yes` for truth
    values; papermill's `-p flip false` hands over text.
    """
    value = plain(value)
    text = value.strip() if isinstance(value, str) else ""
    if kind in (int, float) and _NUMBER.fullmatch(text):
        value = float(text) if kind is float or not text.lstrip("+-").isdecimal() else int(text)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is bool and text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    if isinstance(value, bool) and kind is not bool:
        meant = [word for word in get_args(kind) if _TRUTHS.get(word) is value]
        return meant[0] if len(meant) == 1 else value
    return value


def expanded(path: str) -> str:
    """A path with `~`, `$HOME` and other variables of the environment replaced.

    Raises ValueError for unknown ones, control characters, and what the file system's encoding has no bytes for.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"has a character that this system's encoding, {sys.getfilesystemencoding()}, lacks") from None
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise ValueError("must not have control characters")
    whole = os.path.expanduser(os.path.expandvars(path))
    if whole.startswith("~") or re.search(r"\$(\w+|\{\w+\})", whole):
        raise ValueError("names a user or a variable of the environment that does not exist here")
    return whole


def whole_numbers(text: str) -> tuple[int, ...]:
    """The numbers of "3, 6, 9"; none for an empty text. Raises ValueError for anything else."""
    return tuple(int(number) for number in _list(text, r"[0-9]{1,9}", "whole numbers such as 3, 6, 9"))


def decimals(text: str) -> tuple[float, ...]:
    """The numbers of "1, 1.7, .5"; none for an empty text. Raises ValueError for anything else."""
    return tuple(float(number) for number in _list(text, _DECIMAL, "numbers such as 1, 1.7, 2.2"))


def arguments(text: str) -> tuple[tuple[str, int | float | bool | str], ...]:
    """The (name, value) pairs of "patch_size=4, init_values=1e-5, class_token=false, global_pool=avg", by name.

    A colon stands for an equals sign: papermill reads no line of a parameters cell that has two of these.

    Raises ValueError for anything else, and for a name that is given twice.
    """
    found = {}
    for item in text.split(",") if text.strip() else []:
        match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*[=:]\s*([-+.\w]+)\s*", item)
        if not match or match[1] in found:
            raise ValueError("must be arguments such as patch_size=4, class_token=false, each once, or empty")
        word = match[2]
        kind = int if re.fullmatch("[-+]?[0-9]+", word) else float if _NUMBER.fullmatch(word) else str
        found[match[1]] = {"true": True, "false": False}.get(word.lower(), kind(word))
    return tuple(sorted(found.items()))


def stages(text: str) -> Stages | None:
    """ ".5/.75/1 at 45/40/15": values and their shares of the run; None for an empty text.

    Raises ValueError for anything else, and as Stages does.
    """
    if not text.strip():
        return None
    row = rf"{_DECIMAL}(?:\s*/\s*{_DECIMAL})*"
    found = re.fullmatch(rf"\s*({row})\s+at\s+({row})\s*", text)
    if not found:
        raise ValueError("must be values and their shares of the run, such as .5/.75/1 at 45/40/15")
    return Stages(*(tuple(float(number) for number in part.split("/")) for part in found.groups()))


def _list(text: str, number: str, what: str) -> list[str]:
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if not all(re.fullmatch(number, item) for item in items):
        raise ValueError(f"must be {what}, or empty")
    return items


def explain(error: ValidationError, source: str, fields: dict[str, FieldInfo]) -> str:
    """One message for all that pydantic found wrong in `source`: parameter, what is allowed, what came."""
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            hint = did_you_mean(name, fields, cutoff=0.5) or f"known: {', '.join(fields)}"
            lines.append(f"{name} = {_short(item['input'])} is not a parameter; {hint}")
        elif name in fields:
            allowed = item["msg"].removeprefix("Input ").removeprefix("String ").removeprefix("Value error, ")
            hint = did_you_mean(item["input"], get_args(fields[name].annotation))
            lines.append(
                f"{name} {allowed}; got {_short(item['input'])}{hint and '; ' + hint} ({fields[name].description})"
            )
        else:  # from the check of all values together
            lines.append(item["msg"].removeprefix("Value error, "))
    return f"{source}: " + "\n  ".join(lines)


def positive(text: str) -> int:
    """A number that a command line gives, for argparse; raises ArgumentTypeError if it is not 1, 2, ..."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text!r}")
    return int(text)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:36]} ... {text[-39:]}"  # a path says most at its end
