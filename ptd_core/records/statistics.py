"""Mean and spread of one quantity over runs that differ in their seed only."""

import statistics


def mean_and_sd(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1 in the denominator); None for the latter where there is one value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation in percent, as text; the value alone where there is one."""
    mean, sd = mean_and_sd(values)
    return f"{mean:.2f} %" if sd is None else f"{mean:.2f} ± {sd:.2f} %"
