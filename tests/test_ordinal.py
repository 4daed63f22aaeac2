"""Top-k accuracy and ordered classes, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from featx.evaluation import evaluate
from featx.evaluation.metrics import ranks_of


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(11), 300)
    true = (table.cumsum(axis=1) > rng.random((300, 1))).argmax(axis=1)
    return true, table.argmax(axis=1), table


def test_they_are_those_of_scikit_learn(drawn: tuple[np.ndarray, ...]) -> None:
    true, called, table = drawn
    # Sorted as text "10" comes before "2": columns stand so, and the order is that of the numbers.
    names = np.array(sorted(map(str, range(11))))
    columns = [int(name) for name in names]
    found = evaluate(
        true.astype(str),
        called.astype(str),
        probabilities=table[:, columns],
        classes=names,
        n_boot=200,
    )
    kappa = sk.cohen_kappa_score(true, called, weights="quadratic")
    assert found["quadratic_kappa"]["value"] == pytest.approx(kappa)
    assert found["quadratic_kappa"]["low"] < kappa < found["quadratic_kappa"]["high"]
    assert found["rank_mae"]["value"] == pytest.approx(np.abs(true - called).mean())
    for k in (3, 5):
        wanted = sk.top_k_accuracy_score(true, table, k=k)
        assert found[f"top_{k}_accuracy"]["value"] == pytest.approx(wanted)


def test_perfect_ordered_answers_have_no_interval_of_one_point() -> None:
    true = np.arange(30) % 3
    found = evaluate(true, true, classes=[0, 1, 2])
    assert found["quadratic_kappa"]["value"] == 1
    assert 0.6 < found["quadratic_kappa"]["low"] < 0.9
    assert 0.05 < found["rank_mae"]["high"] < 0.3


def test_the_kappa_of_five_rows_is_not_below_minus_one() -> None:
    true, called = np.array([0, 1, 2, 1, 0]), np.array([2, 1, 0, 1, 0])
    assert evaluate(true, called, classes=[0, 1, 2])["quadratic_kappa"]["low"] >= -1


def test_names_that_are_no_numbers_have_no_order() -> None:
    assert ranks_of(np.array(["a", "b", "c"])) is None
    assert ranks_of(np.array(["0", "1"])) is None
    assert ranks_of(np.array(["1", "nan", "2"])) is None
    assert ranks_of(np.array(["1", "1.0", "2"])) is None
    found = evaluate(["a", "b", "c"], ["a", "b", "b"])
    assert "quadratic_kappa" not in found


def test_a_constant_answer_is_among_the_first_by_chance() -> None:
    found = evaluate(list("abcd"), ["a"] * 4, probabilities=np.full((4, 4), 0.25))
    assert found["top_3_accuracy"]["value"] == 0.75
