"""What can go wrong for a reader of the book, as one family of exceptions.

Each carries a complete sentence: what came, what is allowed, what to do. The command line prints that
sentence alone and exits with status 2; a notebook shows it under the traceback.
"""

import difflib
from collections.abc import Iterable


def did_you_mean(value: object, allowed: Iterable[object], cutoff: float = 0.6) -> str:
    """ "did you mean X?", X being what is most like a text among what is allowed; empty if nothing is."""
    near = difflib.get_close_matches(value, map(str, allowed), n=1, cutoff=cutoff) if isinstance(value, str) else []
    return f"did you mean {near[0]}?" if near else ""


class PTDError(Exception):
    """Base class of every refusal of this package."""


class RecipeError(PTDError, ValueError):
    """A parameter is unknown, of the wrong type, out of bounds, or contradicts another."""


class DataError(PTDError, ValueError):
    """A dataset is absent, damaged, or not what its parameters say."""


class DeviceError(PTDError, RuntimeError):
    """A device was asked for that this machine does not have."""


class LaunchError(PTDError, RuntimeError):
    """The environment speaks of several processes, but does not say which of them this one is."""


class OutputError(PTDError, OSError):
    """A folder that a run must write to cannot be written, or holds another run."""


class TrainingError(PTDError, RuntimeError):
    """Training cannot go on, for example because the loss is not finite."""


class SweepError(PTDError, ValueError):
    """A sweep file is malformed, asks for what no sweep can vary, or names two runs that are the same."""
