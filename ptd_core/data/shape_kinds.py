"""The ten kinds of object in `shapes`: which points are inside, and how to make the kinds comparable.

Each predicate takes x to the right and y downwards, arrays that broadcast, in the kind's own units about the origin.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x * x + y * y < 1


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    square = x * x + y * y
    return (square < 1) & (square > 0.3)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) < 1


def _frame(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    far = np.maximum(np.abs(x), np.abs(y))
    return (far < 1) & (far > 0.55)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (y < 0.5) & (np.abs(x) * 3**0.5 - y < 1)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Folding the angle into one half of a point leaves a single straight edge, from the tip at radius 1 and
    # angle 0 to the notch at radius 0.45 and angle pi/5.
    half = math.pi / 5
    radius = np.hypot(x, y)
    angle = np.abs((np.arctan2(x, -y) + half) % (2 * half) - half)
    notch_x, notch_y = 0.45 * math.cos(half), 0.45 * math.sin(half)
    return radius * (notch_y * np.cos(angle) + (1 - notch_x) * np.sin(angle)) < notch_y


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return (np.maximum(x, y) < 1) & (np.minimum(x, y) < 0.34)


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * x + y * y < 1) & ((x - 0.6) ** 2 + y * y > 0.6)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # The classic sextic (x^2 + y^2 - 1)^3 < x^2 y^3, with y upwards.
    return (x * x + y * y - 1) ** 3 + x * x * y**3 < 0


def _half_disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * x + y * y < 1) & (y < 0)


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "heart": _heart,
    "half disc": _half_disc,
}


class Outline(NamedTuple):
    """Where a kind lies in its own coordinates: its area, its centroid, and how far it reaches from there."""

    area: float
    centre: tuple[float, float]
    reach: float


@cache
def outlines() -> tuple[Outline, ...]:
    """Measured on a fine grid once, which is simpler than ten formulas and as good."""
    step = 0.005
    axis = (np.arange(640) + 0.5) * step - 1.6
    x, y = np.meshgrid(axis, axis)
    measured = []
    for inside in KINDS.values():
        hit = inside(x, y)
        centre = float(x[hit].mean()), float(y[hit].mean())
        reach = float(np.hypot(x[hit] - centre[0], y[hit] - centre[1]).max())
        measured.append(Outline(int(hit.sum()) * step**2, centre, reach))
    return tuple(measured)
