"""The 95 % intervals hold the truth about as often as they say."""

import pytest

from benchmarks.coverage import coverage


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "nearly separate", "rare class", "few rows"])
def test_intervals_hold_the_truth(case):
    # 300 repeats at 95 % have a standard error of 1.3 points.
    for name, share in coverage(case, 300).items():
        assert 0.91 <= share <= 0.99, (name, share)
