"""Built-in data sets, each from a package that is installed beside featx."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from featx.columns import shared
from featx.errors import SourceError
from featx.items import Manifest, Stamp
from featx.sources.places import ReadFiles

_N_BLOCKS = 44  # of about 60 rows: the module ids of ELPV are not published, its row order is


def elpv() -> Manifest:
    """ELPV: 2,624 electroluminescence photographs of solar cells, 300x300, grey.

    The label is ``defective`` where the probability of a defect is above 0.5. The columns
    ``probability``, ``type`` (mono or poly) and ``block`` are kept; cells of one block lie beside
    each other in the file and may come from one module, so ``--groups block`` is the careful fit.

    Deitsch et al. 2019, "Automatic classification of defective photovoltaic module cells in
    electroluminescence images", arXiv 1807.02894. Licence: CC BY-NC-SA 4.0, no commercial use.
    """
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise SourceError("the set elpv needs the package elpv-dataset: pip install 'featx[demo]'")
    folder = Path(spec.origin).parent / "data"
    table = pd.read_csv(
        folder / "labels.csv", sep=r"\s+", header=None, names=["path", "probability", "type"]
    )
    files = [str(folder / name) for name in table["path"]]
    positive = table["probability"].to_numpy() > 0.5
    return Manifest(
        name="elpv",
        ids=[Path(name).stem for name in table["path"]],
        paths=[f"elpv/{name}" for name in table["path"]],
        read=ReadFiles(files),
        labels=shared("defective" if p else "functional" for p in positive),
        columns={
            "probability": table["probability"].to_numpy(np.float64),
            "type": table["type"].to_numpy(object),
            "block": np.arange(len(table)) * _N_BLOCKS // len(table),
        },
    )


@dataclass(frozen=True)
class _ReadPixels:
    """Give pixels, uint8 (n, height, width), as the PNG files that hold them."""

    pictures: NDArray[np.uint8]

    def __call__(self, item: int) -> tuple[bytes, Stamp]:
        file = io.BytesIO()
        Image.fromarray(self.pictures[item]).save(file, "PNG")
        return file.getvalue(), Stamp()


def digits() -> Manifest:
    """scikit-learn's 1,797 handwritten digits, 8x8, grey."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = np.rint(found.images * (255 / 16)).astype(np.uint8)

    names = [f"{i:04d}" for i in range(len(pictures))]
    return Manifest(
        name="digits",
        ids=names,
        paths=[f"digits/{name}" for name in names],
        read=_ReadPixels(pictures),
        labels=shared(str(t) for t in found.target),
    )


BUILT_IN: dict[str, Callable[[], Manifest]] = {"digits": digits, "elpv": elpv}
"""Names that stand for a data set where a source is asked for."""
