"""Draw docs/digits-map.png, the picture in the README."""

from __future__ import annotations

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import featx


def main() -> None:
    """Embed scikit-learn's digits and plot two principal components."""
    with tempfile.TemporaryDirectory() as folder:
        featx.extract("digits", Path(folder) / "digits.h5", precision="fp32")
        with featx.open_cache(Path(folder) / "digits.h5") as cache:
            X, y = cache.X[:], cache.y
    places = PCA(2, random_state=0).fit_transform(StandardScaler().fit_transform(X))
    fig, ax = plt.subplots(figsize=(7.2, 4.4), layout="constrained", dpi=110)
    for code in range(10):
        ax.scatter(*places[y == code].T, s=9, alpha=0.65, label=str(code), color=f"C{code}")
    ax.set(xlabel="first principal component", ylabel="second")
    ax.set_title("1,797 digits, 1,280 features of a network that never saw one", fontsize=11)
    ax.legend(title="digit", ncols=2, frameon=False, markerscale=2)
    ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(Path(__file__).with_name("digits-map.png"))


if __name__ == "__main__":
    main()
