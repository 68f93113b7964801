"""What is wrong with a recipe, in words: one message for everything that was found."""

import difflib
from typing import Any, get_args

import annotated_types
from pydantic import ValidationError
from pydantic.fields import FieldInfo


def explain(error: ValidationError, source: str, fields: dict[str, FieldInfo]) -> str:
    """One message for all that pydantic found wrong in `source`: parameter, what came, what is allowed."""
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(fields)}"
            lines.append(f"{name} = {_short(item['input'])} is not a parameter; {hint}")
        elif name in fields:
            lines.append(
                f"{name} must be {allowed(fields[name])}; got {_short(item['input'])}"
                + _yaml_hint(fields[name], item["input"])
            )
        else:  # from the check of all values together
            lines.append(item["msg"].removeprefix("Value error, "))
    return f"{source}: " + "\n  ".join(lines)


def allowed(field: FieldInfo) -> str:
    """What a parameter may be, in words: type, choices, bounds."""
    choices = get_args(field.annotation)
    if choices:
        return "one of " + ", ".join(map(repr, choices))
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text"}[field.annotation]
    phrases = {
        annotated_types.Ge: ("at least", "ge"),
        annotated_types.Gt: ("above", "gt"),
        annotated_types.Le: ("at most", "le"),
        annotated_types.Lt: ("below", "lt"),
    }
    bounds = []
    for mark in field.metadata:
        if type(mark) in phrases:
            phrase, attribute = phrases[type(mark)]
            bounds.append(f"{phrase} {getattr(mark, attribute)}")
        elif getattr(mark, "pattern", None):
            bounds.append(f"matching {mark.pattern}")
        elif isinstance(mark, annotated_types.MinLen):
            bounds.append("not empty")
    return " ".join([words, " and ".join(bounds)]).strip() + f" ({field.description})"


def _yaml_hint(field: FieldInfo, value: Any) -> str:
    """YAML 1.1 reads 4e-4 as text; say how to write it."""
    if field.annotation is float and isinstance(value, str):
        try:
            return f" (text; in YAML write {float(value)!r} with a decimal point, such as 4.0e-4)"
        except ValueError:
            pass
    return ""


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."
