"""A fitted head as a module that gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from torch import nn

from featx.errors import ModelError
from featx.exporting.layers import (
    Affine,
    ColumnPicker,
    ColumnRange,
    Concatenation,
    Constant,
    CubeRoot,
    Gaussian,
    LogShares,
    Neighbours,
    Scale,
    Shares,
    Sigmoid,
    UnitRows,
    Votes,
)
from featx.heads import HEADS
from featx.model.thresholds import has_several
from featx.typing import Estimator

Maker = Callable[[Any], nn.Module | None]


def head_module(estimator: Estimator, classes: list[str]) -> nn.Module:
    """Build the module of a fitted head.

    Parameters
    ----------
    estimator
        What `featx.fit` fitted.
    classes
        In the order of the wanted probabilities; empty for a regression.

    Returns
    -------
    module : (n, n_features) float32 -> (n, n_classes) probabilities, or (n, 1) values

    Raises
    ------
    ModelError
        If a part of it has no such form; the message names the heads that have.
    """
    if not classes:
        return _last(estimator, _VALUES)
    module = _last(estimator, _PROBABILITIES)
    if has_several(estimator):
        return module
    given = [str(name) for name in estimator.classes_]
    if given == classes:
        return module
    place = np.zeros((len(given), len(classes)))
    place[np.arange(len(given)), [classes.index(name) for name in given]] = 1
    return nn.Sequential(module, ColumnPicker(place=place))


def _last(estimator: Estimator, makers: dict[str, Maker]) -> nn.Module:
    """Turn the steps before the last into transforms, and the last by one of `makers`."""
    if type(estimator).__name__ == "Pipeline":
        *before, last = [step for _, step in estimator.steps if step != "passthrough"]
        return nn.Sequential(*map(_transform, before), _last(last, makers))
    return _made(estimator, makers)


def _transform(step: Any) -> nn.Module:
    return _last(step, _TRANSFORMS)


def _made(part: object, makers: dict[str, Maker]) -> nn.Module:
    make = makers.get(type(part).__name__)
    module = None if make is None else make(part)
    if module is None:
        raise ModelError(
            f"the head cannot be exported: {' '.join(str(part).split())[:80]} has no form in ONNX "
            f"here; the heads {', '.join(HEADS)} have one"
        )
    return module


def _scaler(step: Any) -> nn.Module:
    n = step.n_features_in_
    mean = np.zeros(n) if step.mean_ is None else step.mean_
    return Scale(mean=mean, scale=np.ones(n) if step.scale_ is None else step.scale_)


def _function(step: Any) -> nn.Module | None:
    return CubeRoot() if step.func is np.cbrt else None


def _pca(step: Any) -> nn.Module:
    weight = step.components_
    if step.whiten:
        weight = weight / np.sqrt(step.explained_variance_)[:, None]
    return Affine(weight=weight, bias=-weight @ step.mean_)


def _nystroem(step: Any) -> nn.Module | None:
    if step.kernel != "rbf":
        return None
    gamma = 1 / step.components_.shape[1] if step.gamma is None else step.gamma
    mixed = Affine(weight=step.normalization_, bias=np.zeros(len(step.normalization_)))
    return nn.Sequential(Gaussian(support=step.components_, gamma=gamma), mixed)


def _linear(clf: Estimator) -> nn.Module:
    return Affine(weight=np.atleast_2d(clf.coef_), bias=np.atleast_1d(clf.intercept_))


def _svc(clf: Estimator) -> nn.Module | None:
    n = len(clf.classes_)
    if n > 2 and (clf.decision_function_shape != "ovr" or clf.break_ties):
        return None
    weights = np.asarray(clf.dual_coef_) if n == 2 else _pair_weights(clf, n)
    figures = _kernel(clf, weights)
    if n == 2 or figures is None:
        return figures
    pairs = np.array(list(combinations(range(n), 2)))
    first, second = (np.eye(n)[pairs[:, k]] for k in (0, 1))
    return nn.Sequential(figures, Votes(first=first, second=second))


def _pair_weights(clf: Estimator, n: int) -> Any:
    """Weight of each support vector in each pair of classes, from libsvm's packed table."""
    ends = np.cumsum([0, *clf.n_support_])
    weights = np.zeros((n * (n - 1) // 2, ends[-1]))
    for row, (i, j) in enumerate(combinations(range(n), 2)):
        of_i, of_j = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
        weights[row, of_i] = clf.dual_coef_[j - 1, of_i]
        weights[row, of_j] = clf.dual_coef_[i, of_j]
    return weights


def _kernel(svm: Any, weights: Any) -> nn.Module | None:
    if svm.kernel == "linear":
        return Affine(weight=weights @ svm.support_vectors_, bias=svm.intercept_)
    if svm.kernel != "rbf":
        return None
    near = Gaussian(support=svm.support_vectors_, gamma=svm._gamma)
    return nn.Sequential(near, Affine(weight=weights, bias=svm.intercept_))


def _svr(svm: Any) -> nn.Module | None:
    return _kernel(svm, np.asarray(svm.dual_coef_))


def _neighbours(clf: Estimator, values: Any) -> nn.Module | None:
    metric = clf.effective_metric_
    if metric not in ("cosine", "euclidean") or clf.weights not in ("uniform", "distance"):
        return None
    rows = np.asarray(clf._fit_X, dtype=np.float64)
    if metric == "cosine":
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    return Neighbours(
        clf.n_neighbors,
        cosine=metric == "cosine",
        weighted=clf.weights == "distance",
        rows=rows,
        values=values,
    )


def _knn(clf: Estimator) -> nn.Module | None:
    if clf.outputs_2d_:
        labels = zip(clf.classes_, np.transpose(clf._y), strict=True)
        return _neighbours(clf, np.stack([names[codes] for names, codes in labels], axis=1))
    return _neighbours(clf, np.eye(len(clf.classes_))[clf._y.ravel()])


def _knn_figures(clf: Estimator) -> nn.Module | None:
    """The input of calibration: probabilities, for two classes that of the second."""
    module = _knn(clf)
    second = ColumnPicker(place=[[0.0], [1.0]])
    return module if module is None or len(clf.classes_) > 2 else nn.Sequential(module, second)


def _knn_value(regressor: Any) -> nn.Module | None:
    return _neighbours(regressor, np.reshape(regressor._y, (len(regressor._y), -1)))


def _logistic(clf: Estimator) -> nn.Module:
    """Probabilities of a linear decision: a sigmoid for two classes, else a softmax."""
    if len(clf.classes_) > 2:
        return nn.Sequential(_linear(clf), nn.Softmax(dim=1))
    return _each(clf)


def _each(clf: Estimator) -> nn.Module:
    return nn.Sequential(_linear(clf), nn.Sigmoid(), Shares())


def _sgd(clf: Estimator) -> nn.Module | None:
    return _each(clf) if clf.loss == "log_loss" else None


def _calibrated(clf: Estimator) -> nn.Module | None:
    if len(clf.calibrated_classifiers_) != 1 or clf.method not in ("sigmoid", "temperature"):
        return None
    inner = clf.calibrated_classifiers_[0]
    if clf.method == "temperature":
        return nn.Sequential(
            _last(inner.estimator, _FIGURES), _temperature(inner), nn.Softmax(dim=1)
        )
    slope, offset = ([getattr(c, name) for c in inner.calibrators] for name in ("a_", "b_"))
    return nn.Sequential(
        _last(inner.estimator, _FIGURES), Sigmoid(slope=slope, offset=offset), Shares()
    )


def _temperature(inner: Any) -> nn.Module:
    """One scale for all classes; of two, scikit-learn takes the decision with both signs.

    Of a head that gives probabilities alone, their logarithms are scaled.
    """
    beta, n = float(inner.calibrators[0].beta_), len(inner.classes)
    if not hasattr(inner.estimator, "decision_function"):
        whole = [Shares()] if n == 2 else []
        scaled = Affine(weight=beta * np.eye(n), bias=np.zeros(n))
        return nn.Sequential(*whole, LogShares(), scaled)
    weight = np.array([[-beta], [beta]]) if n == 2 else beta * np.eye(n)
    return Affine(weight=weight, bias=np.zeros(n))


def _stack(clf: Estimator) -> nn.Module | None:
    if clf.passthrough or set(clf.stack_method_) - {"predict_proba", "decision_function"}:
        return None
    two = len(clf.classes_) == 2
    by = {"predict_proba": _PROBABILITIES, "decision_function": _FIGURES}
    parts = [_last(e, by[how]) for e, how in zip(clf.estimators_, clf.stack_method_, strict=True)]
    drop = [int(two and how == "predict_proba") for how in clf.stack_method_]
    return nn.Sequential(Concatenation(parts, drop), _last(clf.final_estimator_, _PROBABILITIES))


def _against_rest(clf: Estimator) -> nn.Module:
    """The decision of each class against all others."""
    return Concatenation(
        [_last(one, _FIGURES) for one in clf.estimators_], [0] * len(clf.estimators_)
    )


def _several(clf: Estimator) -> nn.Module:
    """The positive column of each label's own classifier."""
    parts = [_last(one, _PROBABILITIES) for one in clf.estimators_]
    return Concatenation(parts, [1] * len(parts))


def _constant(clf: Estimator) -> nn.Module:
    share = float(clf.y_[0])
    return Constant(row=[1 - share, share])


def _selected(step: Any) -> nn.Module | None:
    """One slice of columns, as a stack gives each of its heads one tap."""
    columns = step.transformers[0][2]
    if len(step.transformers) > 1 or step.remainder != "drop" or not isinstance(columns, slice):
        return None
    return ColumnRange(columns.start, columns.stop)


_TRANSFORMS: dict[str, Maker] = {
    "StandardScaler": _scaler,
    "Normalizer": lambda step: UnitRows() if step.norm == "l2" else None,
    "FunctionTransformer": _function,
    "PCA": _pca,
    "Nystroem": _nystroem,
    "ColumnTransformer": _selected,
}
_FIGURES: dict[str, Maker] = {
    "SVC": _svc,
    "LinearSVC": _linear,
    "RidgeClassifier": _linear,
    "LogisticRegression": _linear,
    "SGDClassifier": _linear,
    "KNeighborsClassifier": _knn_figures,
    "OneVsRestClassifier": _against_rest,
}
_PROBABILITIES: dict[str, Maker] = {
    "LogisticRegression": _logistic,
    "LinearDiscriminantAnalysis": _logistic,
    "SGDClassifier": _sgd,
    "KNeighborsClassifier": _knn,
    "CalibratedClassifierCV": _calibrated,
    "StackingClassifier": _stack,
    "OneVsRestClassifier": _several,
    "_ConstantPredictor": _constant,
}
_VALUES: dict[str, Maker] = {
    "Ridge": _linear,
    "SVR": _svr,
    "KNeighborsRegressor": _knn_value,
}
