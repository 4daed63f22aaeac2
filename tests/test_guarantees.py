"""Cuts that keep a promise on new rows."""

from __future__ import annotations

import numpy as np
import pytest

from featx.errors import FitError
from featx.evaluation.decisions import laxest_cut, lowest_share, rows_needed


def test_the_bound_is_clopper_and_pearson() -> None:
    from scipy.stats import binomtest

    for k, n in ((0, 9), (3, 9), (57, 60), (60, 60)):
        exact = binomtest(k, n, alternative="greater").proportion_ci(0.9, method="exact").low
        assert lowest_share(k, n, 0.9) == pytest.approx(exact)
    assert lowest_share(rows_needed(0.95, 0.9), rows_needed(0.95, 0.9), 0.9) >= 0.95


@pytest.mark.parametrize("n", [300, 3000])
@pytest.mark.parametrize("wanted", [0.9, 0.95])
def test_promises_are_kept_in_the_stated_share_of_draws(n: int, wanted: float) -> None:
    """Scores are perfect probabilities, so what a cut is worth is known exactly."""
    rng = np.random.default_rng(n)
    many = np.sort(rng.beta(9, 1, 200_000))
    worth = np.cumsum(many[::-1])[::-1] / np.arange(len(many), 0, -1)
    broken = made = 0
    for _ in range(400):
        p = rng.beta(9, 1, n)
        cut = laxest_cut(rng.random(n) < p, p, wanted, confidence=0.8)
        if cut is not None:
            made += 1
            broken += worth[np.searchsorted(many, cut.threshold)] < wanted
    assert made > 200
    assert broken / 400 <= 0.2


def test_errors_inside_groups_are_not_counted_as_independent() -> None:
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(200):
        # Whole groups of ten are right or wrong together; nine tenths of them are right.
        right = np.repeat(rng.random(60) < 0.9, 10)
        scores = np.full(600, 0.9)
        broken += laxest_cut(right, scores, 0.9, 0.8, np.arange(600) // 10) is not None
    assert broken / 200 <= 0.2


def test_no_row_is_refused() -> None:
    with pytest.raises(FitError, match="0 labels and 0 scores"):
        laxest_cut([], [], 0.9)
