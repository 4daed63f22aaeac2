"""Types that several rooms share and that Python has no name for."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

# A JSON document: what reports, specs and the last line of `--json` are made of.
JsonObject: TypeAlias = dict[str, Any]

# One value a row, of whatever dtype the source has: labels, groups, a column of a table.
RowValues: TypeAlias = NDArray[Any]


class Estimator(Protocol):
    """A scikit-learn estimator, Pipelines included.

    Fitted attributes (`classes_`, `coef_`) and optional methods (`predict_proba`) are looked up
    when the estimator is used, as scikit-learn does.
    """

    def fit(self, X: NDArray[Any], y: RowValues, **fit_params: object) -> Estimator:
        """Fit on X, (n_samples, n_features), and y, (n_samples,)."""
        ...

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Predict a label or value for each row of X."""
        ...

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        ...

    def set_params(self, **params: object) -> Estimator:
        """Set parameters by name."""
        ...

    def __getattr__(self, name: str) -> Any:
        """Look up what only some estimators have."""
        ...
