"""The peers as their own pages show them; weights are random, which costs the same time."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image

Timed = Callable[[list[str]], float]
TIMM = {"efficientnet_lite0": "tf_efficientnet_lite0", "resnet50": "resnet50", "vgg16": "vgg16"}


@contextlib.contextmanager
def random_weights() -> Iterator[None]:
    """Let a peer build its network without fetching weights: there is no network here."""
    import timm
    import torchvision.models as models

    create, fetch = timm.create_model, models._api.load_state_dict_from_url

    @functools.wraps(create)
    def built(name: str, pretrained: bool = False, **options: Any) -> Any:
        return create(name, pretrained=False, **options)

    timm.create_model = built
    models._api.load_state_dict_from_url = lambda *a, **k: models.resnet50().state_dict()
    try:
        yield
    finally:
        timm.create_model, models._api.load_state_dict_from_url = create, fetch


def timm_loader(name: str) -> Timed:
    """timm's documented way: its transform, a DataLoader with two workers, eval, inference mode."""
    import timm
    from torch.utils.data import DataLoader, Dataset

    model = timm.create_model(TIMM[name], pretrained=False, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    class Files(Dataset):  # type: ignore[type-arg]
        def __init__(self, paths: list[str]) -> None:
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, i: int) -> torch.Tensor:
            return transform(Image.open(self.paths[i]).convert("RGB"))

    def run(paths: list[str]) -> float:
        start = time.perf_counter()
        loader = DataLoader(Files(paths), batch_size=32, num_workers=2)
        with torch.inference_mode():
            np.concatenate([model(batch).numpy() for batch in loader])
        return time.perf_counter() - start

    return run


def embetter(name: str) -> Timed:
    """embetter's pipeline: ImageLoader, then TimmEncoder."""
    from embetter.vision import ImageLoader, TimmEncoder

    with random_weights():
        encoder = TimmEncoder(name=TIMM[name])
    loader = ImageLoader()

    def run(paths: list[str]) -> float:
        start = time.perf_counter()
        encoder.transform(loader.transform(paths))
        return time.perf_counter() - start

    return run


def img2vec(name: str) -> Timed:
    """img2vec_pytorch in batches of 32; it knows ResNet-50, not the other two."""
    if name != "resnet50":
        raise LookupError("img2vec has no such network")
    from img2vec_pytorch import Img2Vec

    with random_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Img2Vec(model="resnet50", layer_output_size=2048)

    def run(paths: list[str]) -> float:
        start = time.perf_counter()
        for first in range(0, len(paths), 32):
            images = [Image.open(p).convert("RGB") for p in paths[first : first + 32]]
            model.get_vec(images)
        return time.perf_counter() - start

    return run


def thread_pool(name: str) -> Timed:
    """A thread pool that decodes with Pillow, and eager fp32 in batches: the obvious script."""
    import timm

    model = timm.create_model(TIMM[name], pretrained=False, num_classes=0).eval()
    model.to(memory_format=torch.channels_last)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    def load(path: str) -> torch.Tensor:
        return transform(Image.open(path).convert("RGB"))

    def run(paths: list[str]) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as pool, torch.inference_mode():
            tensors = pool.map(load, paths)
            batch: list[torch.Tensor] = []
            for tensor in tensors:
                batch.append(tensor)
                if len(batch) == 32:
                    model(torch.stack(batch).to(memory_format=torch.channels_last))
                    batch = []
            if batch:
                model(torch.stack(batch).to(memory_format=torch.channels_last))
        return time.perf_counter() - start

    return run


SCRIPT = "threads, eager fp32"
PEERS = {
    "timm DataLoader": timm_loader,
    "embetter": embetter,
    "img2vec": img2vec,
    SCRIPT: thread_pool,
}
