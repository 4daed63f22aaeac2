"""The computations of fitted heads, as modules of few tensor operations that every runtime has."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn


class Fixed(nn.Module):
    """A module of fixed numbers, kept as float32 buffers."""

    def __init__(self, **numbers: ArrayLike) -> None:
        super().__init__()
        for name, values in numbers.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


class Scale(Fixed):
    """``(x - mean) / scale`` of each column."""

    def forward(self, x: Tensor) -> Tensor:
        """Take and give (n, d)."""
        scaled: Tensor = (x - self.mean) / self.scale
        return scaled


class UnitRows(nn.Module):
    """Divide each row by its length; a row of zeros stays."""

    def forward(self, x: Tensor) -> Tensor:
        """Take and give (n, d)."""
        length = (x * x).sum(1, keepdim=True).sqrt()
        return x / torch.where(length > 0, length, torch.ones_like(length))


class CubeRoot(nn.Module):
    """The cube root, which keeps the sign."""

    def forward(self, x: Tensor) -> Tensor:
        """Take and give (n, d)."""
        return x.sign() * x.abs().pow(1 / 3)


class Affine(Fixed):
    """``x @ weight.T + bias``; weight has one row an output."""

    def forward(self, x: Tensor) -> Tensor:
        """Take (n, d), give (n, outputs)."""
        moved: Tensor = x @ self.weight.T + self.bias
        return moved


class Gaussian(Fixed):
    """``exp(-gamma |x - s|^2)`` for each row ``s`` of support."""

    def forward(self, x: Tensor) -> Tensor:
        """Take (n, d), give (n, rows of support)."""
        own, theirs = (x * x).sum(1, keepdim=True), (self.support * self.support).sum(1)
        apart = own + theirs - 2 * (x @ self.support.T)
        near: Tensor = torch.exp(-self.gamma * apart.clamp(min=0))
        return near


class Votes(Fixed):
    """One-vs-one decisions to one figure a class, as scikit-learn's ``ovr`` shape has them.

    ``first`` and ``second`` have a row for each pair and a 1 at its class.
    """

    def forward(self, pairs: Tensor) -> Tensor:
        """Take (n, pairs), positive for the first of each pair; give (n, classes)."""
        second = (pairs < 0).float()
        votes = (1 - second) @ self.first + second @ self.second
        total = pairs @ (self.first - self.second)
        figures: Tensor = votes + total / (3 * (total.abs() + 1))
        return figures


class Sigmoid(Fixed):
    """Platt's ``1 / (1 + exp(slope f + offset))`` of each figure."""

    def forward(self, figures: Tensor) -> Tensor:
        """Take and give (n, k)."""
        return torch.sigmoid(-(self.slope * figures + self.offset))


class Shares(nn.Module):
    """Probabilities of each class against the rest, made to sum to 1.

    One column is that of the second of two classes.
    """

    def forward(self, p: Tensor) -> Tensor:
        """Take (n, 1) or (n, classes), give (n, classes)."""
        if p.shape[1] == 1:
            return torch.cat([1 - p, p], 1)
        total = p.sum(1, keepdim=True)
        even = torch.full_like(p, 1 / p.shape[1])
        return torch.where(
            total > 0, p / torch.where(total > 0, total, torch.ones_like(total)), even
        )


class LogShares(nn.Module):
    """Logarithms of probabilities, as scikit-learn's temperature takes them."""

    def forward(self, p: Tensor) -> Tensor:
        """Take and give (n, classes)."""
        return torch.log(p + 1e-12)


class Neighbours(Fixed):
    """Average ``values`` of the nearest ``rows``, weighted by 1 / distance or not at all."""

    def __init__(self, k: int, *, cosine: bool, weighted: bool, **numbers: ArrayLike) -> None:
        super().__init__(**numbers)
        self.k, self.cosine, self.weighted = k, cosine, weighted

    def forward(self, x: Tensor) -> Tensor:
        """Take (n, d), give (n, columns of values)."""
        near, at = torch.topk(self._distances(x), self.k, dim=1, largest=False)
        weights = torch.ones_like(near)
        if self.weighted:
            # A row that is there itself decides alone, with its equals.
            same = near <= 0
            weights = torch.where(same, weights, 1 / torch.where(same, weights, near))
            weights = torch.where(same.any(1, keepdim=True), same.float(), weights)
        weights = weights / weights.sum(1, keepdim=True)
        mean: Tensor = (self.values[at] * weights.unsqueeze(2)).sum(1)
        return mean

    def _distances(self, x: Tensor) -> Tensor:
        if self.cosine:
            product: Tensor = UnitRows()(x) @ self.rows.T
            return (1 - product).clamp(min=0)
        own, theirs = (x * x).sum(1, keepdim=True), (self.rows * self.rows).sum(1)
        squared: Tensor = own + theirs - 2 * (x @ self.rows.T)
        return squared.clamp(min=0).sqrt()


class Distance(nn.Module):
    """Cosine distance to the nearest of ``rows``, which have length one; kept as float16."""

    def __init__(self, rows: ArrayLike) -> None:
        super().__init__()
        self.rows = nn.Buffer(torch.tensor(rows, dtype=torch.float16))
        self.lengths = nn.Buffer(self.rows.float().norm(dim=1))  # of what was rounded

    def forward(self, x: Tensor) -> Tensor:
        """Take (n, d), give (n,), from 0 to 2."""
        nearest: Tensor = (UnitRows()(x) @ self.rows.float().T / self.lengths).amax(1)
        return (1 - nearest).clamp(min=0)


class Concatenation(nn.Module):
    """The outputs of several modules beside each other, without each one's first `drop` columns."""

    def __init__(self, parts: list[nn.Module], drop: list[int]) -> None:
        super().__init__()
        self.parts, self.drop = nn.ModuleList(parts), drop

    def forward(self, x: Tensor) -> Tensor:
        """Take (n, d), give (n, columns of all)."""
        return torch.cat([m(x)[:, k:] for m, k in zip(self.parts, self.drop, strict=True)], 1)


class ColumnPicker(Fixed):
    """Put columns where `place` (given, wanted) has a 1; zeros elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        """Take (n, given), give (n, wanted)."""
        placed: Tensor = x @ self.place
        return placed


class ColumnRange(nn.Module):
    """Some columns that stand side by side."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: Tensor) -> Tensor:
        """Take (n, d), give (n, stop - start)."""
        return x[:, self.start : self.stop]


class Constant(Fixed):
    """The same row whatever the features are."""

    def forward(self, x: Tensor) -> Tensor:
        """Take (n, d), give (n, columns of the row)."""
        same: Tensor = torch.zeros_like(x[:, :1]) + self.row
        return same
