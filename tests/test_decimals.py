"""Numbers made of text: losslessly, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from featx.errors import FitError
from featx.labels import look_like_measurements, numbers_of


def read(*texts: str) -> list[float]:
    return numbers_of(texts, "labels", [f"row {k}" for k in range(len(texts))]).values.tolist()


def test_numbers_are_those_that_are_written() -> None:
    assert read("1.50", "-2", " 3", "1E5", ".5", "007") == [1.5, -2.0, 3.0, 1e5, 0.5, 7.0]
    assert np.isnan(read("", "1")[0])
    assert read("9007199254740992", "0.10000000000000001") == [2.0**53, 0.1]


def test_decimal_commas() -> None:
    found = numbers_of(["1,5", "-0,25", "2", ",5", "1,5E3"], "labels", list("abcde"))
    assert found.values.tolist() == [1.5, -0.25, 2.0, 0.5, 1500.0]
    assert found.with_commas == 4


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["1", "x7"], "hold text that is not a number .'x7' of 'row 1'"),
        (["1", "NA"], "'NA' of 'row 1'"),
        (["1", "nan"], "'nan' of 'row 1'"),
        (["1_000"], "not a number"),
        (["1,234,567"], "not a number"),
        (["1.234,5"], "not a number"),
        (["1,5", "1.5"], "mix decimal commas and points"),
        (["123456789012345678"], "has more digits than a float64 holds"),
        (["9007199254740993"], "has more digits"),
        (["0.12345678901234567", "0.123456789012345670001"], "has more digits"),
        (["1e999"], "too large"),
    ],
)
def test_what_is_no_number_is_named(texts: list[str], message: str) -> None:
    with pytest.raises(FitError, match=message):
        read(*texts)


def test_measurements_and_classes() -> None:
    assert look_like_measurements(["0.5", "1.5", "2,5".replace(",", "."), ""])
    assert not look_like_measurements(["1.1", "1.1", "2.0", "2.0"])  # versions
    assert not look_like_measurements(["1", "2", "3"])
    assert not look_like_measurements(["a", "0.5"])
    assert not look_like_measurements([""])
