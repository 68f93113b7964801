"""Mean, spread and intervals of one quantity over runs that differ in their seed only."""

import itertools
import statistics

import numpy as np

RESAMPLES = 100_000  # of the bootstrap where not all can be listed
_LISTED = 6  # values up to which all resamples are: 6 ** 6 = 46,656
# 97.5 % quantiles of Student's t for 1 to 19 degrees of freedom: of 2 to 20 seeds.
T975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
        2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930)  # fmt: skip

Z975 = statistics.NormalDist().inv_cdf(0.975)

Interval = tuple[float, float]


def mean_and_sd(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1 in the denominator); None for the latter where there is one value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation in percent, as text; the value alone where there is one."""
    mean, sd = mean_and_sd(values)
    return f"{mean:.2f} %" if sd is None else f"{mean:.2f} ± {sd:.2f} %"


def bootstrap_interval(values: list[float]) -> Interval:
    """95 % interval of the mean: percentiles of the means of resamples with replacement (Efron 1979).

    Exact, over all n^n resamples, for up to six values; else 100,000 of them, the same ones each time. With few values
    it is too narrow: for five normal ones it holds the truth in about five of six cases, see `t_interval`.
    Raises ValueError for fewer than two values.
    """
    _refuse_few(values)
    given = np.asarray(values, dtype=np.float64)
    if len(values) <= _LISTED:
        index = np.array(list(itertools.product(range(len(values)), repeat=len(values))))
    else:
        index = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(given[index].mean(axis=1), (0.025, 0.975), method="inverted_cdf")
    return float(low), float(high)


def t_interval(values: list[float]) -> Interval:
    """95 % interval of the mean by Student's t: right for few values if they are normal.

    Raises ValueError for fewer than two values.
    """
    _refuse_few(values)
    mean, sd = mean_and_sd(values)
    half = half_width(sd, len(values))
    return mean - half, mean + half


def half_width(sd: float, count: int) -> float:
    """Half of that interval, of at least two values with this sample standard deviation."""
    return t975(count - 1) * sd / count**0.5


def t975(freedom: int) -> float:
    """97.5 % quantile of Student's t for so many degrees of freedom.

    Beyond the table by its expansion around the normal quantile (Abramowitz and Stegun 1964, 26.7.5), there right to
    0.0001.
    """
    if freedom <= len(T975):
        return T975[freedom - 1]
    z = Z975
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def points(values: list[float], interval: str = "") -> str:
    """The mean of differences in percentage points, Student's interval, called so, and how many seeds, as text."""
    mean, sd = mean_and_sd(values)
    if sd is None:
        return f"{mean:+.2f} points, one seed"
    low, high = t_interval(values)
    return f"{mean:+.2f} points ({interval}{low:+.2f} to {high:+.2f}, n = {len(values)})"


def _refuse_few(values: list[float]) -> None:
    if len(values) < 2:
        raise ValueError(f"an interval needs at least two values; got {len(values)}")
