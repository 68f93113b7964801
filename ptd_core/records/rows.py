"""Tables of one dataclass a row, as CSV: values read back exactly, NaN is left empty."""

import csv
import math
from dataclasses import astuple, fields
from pathlib import Path
from typing import TypeVar

from ptd_core.errors import OutputError
from ptd_core.records.history import write_rows

R = TypeVar("R")


def write_table(rows: list, path: Path) -> None:
    """Rows of one dataclass whose fields are texts and numbers. Raises OutputError if it cannot be written."""
    write_rows(path, [field.name for field in fields(rows[0])], [list(astuple(row)) for row in rows])


def read_table(kind: type[R], path: Path, what: str) -> list[R]:
    """The rows that `write_table` wrote. Raises OutputError, which says `what` it should be, if they cannot be read."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            found = [
                kind(**{field.name: value_of(field.type, row[field.name]) for field in fields(kind)})
                for row in csv.DictReader(file)
            ]
        if not found:
            raise ValueError("it has no rows")
        return found
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise OutputError(f"{path}: cannot be read as {what} ({error})") from None


def value_of(kind: type, text: str) -> str | int | float:
    """What a cell of such a table says. Raises ValueError if it is not of this kind."""
    return math.nan if kind is float and text == "" else kind(text)
