"""Means with paired intervals: the same pictures under two arms, tasks weighing the same."""

import math

import numpy as np
from numpy.typing import NDArray

Values = dict[str, NDArray[np.float64]]  # task -> one value a picture (the mean over its questions)
Interval = tuple[float, float | None, float | None]


def mean(values: Values) -> float:
    """Mean of the tasks' means."""
    return float(np.mean([v.mean() for v in values.values()]))


def paired_interval(a: Values, b: Values, resamples: int = 4000, seed: int = 0) -> Interval:
    """(mean of a - b, low, high): 95 % by bootstrap over pictures within each task. Both hold the same pictures in the
    same order; several questions on a picture are drawn together. None where a task has a single picture."""
    whole = mean({t: a[t] - b[t] for t in a})
    if any(len(v) < 2 for v in a.values()):
        return whole, None, None
    rng = np.random.default_rng(seed)
    drawn = np.zeros(resamples)
    for task in a:
        difference = a[task] - b[task]
        n = len(difference)
        for first in range(0, resamples, 500):  # 500 x n indices at a time
            index = rng.integers(0, n, (min(500, resamples - first), n))
            drawn[first : first + 500] += difference[index].mean(1) / len(a)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return whole, float(low), float(high)


def mcnemar(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Exact two-sided p of as uneven a split of the questions that only one of the two answered rightly."""
    only_a, only_b = int(((a > 0.5) & (b < 0.5)).sum()), int(((b > 0.5) & (a < 0.5)).sum())
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return min(1.0, 2 * tail)
