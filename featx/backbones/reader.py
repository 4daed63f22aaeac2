"""From uint8 pixels to the vectors of several taps in one pass that ends after the last of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from featx.backbones.taps import PRE_LOGITS, Tap, is_nhwc, map_shape, pool_map
from featx.errors import BackboneError, UnknownLayerError, words_of
from featx.preprocess import Preprocess


class Normalize(nn.Module):
    """Pixels as the network wants them: normalised in float32, then in its type and layout.

    Parameters
    ----------
    preprocess
        For its mean and std.
    net
        The network; its parameters' type and memory format are followed, whatever is done to it.
    in_chans
        3, or 1 for a network of grey pictures: the mean over red, green and blue.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess, net: nn.Module, in_chans: int = 3) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = getattr(preprocess, name)
            if len(values) not in (1, in_chans):
                raise BackboneError(
                    f"{name} has {len(values)} values, but the network takes {in_chans} channels"
                )
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        self.in_chans = in_chans
        self._values = (preprocess.mean, preprocess.std)
        self._net = (net,)  # in a tuple, so that it is not registered a second time

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Normalize:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # `.to(torch.bfloat16)` is for the network; rounding the mean would move every pixel.
        for name, values in zip(("mean", "std"), self._values, strict=True):
            device = getattr(self, name).device
            setattr(self, name, torch.tensor(values, device=device).view(1, -1, 1, 1))
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalise uint8 (n, height, width, 3) to the network's type, (n, in_chans, h, w)."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        if self.in_chans == 1:
            pixels = pixels.mean(1, keepdim=True)
        dtype, layout = _wanted(self._net[0])
        pixels = (pixels / 255.0 - self.mean) / self.std
        return pixels.to(dtype).contiguous(memory_format=layout)


def _wanted(net: nn.Module) -> tuple[torch.dtype, torch.memory_format]:
    dtype, layout = torch.float32, torch.contiguous_format
    floats = [p for p in net.parameters() if p.is_floating_point()]
    # Not a vector's type: BatchNorm may stay float32 beside kernels of another type.
    weight = next((p for p in floats if p.ndim > 1), floats[0] if floats else None)
    if weight is not None:
        dtype = weight.dtype
    # A kernel of 1x1 is contiguous both ways and says nothing.
    telling = (p for p in floats if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] * p.shape[3] > 1)
    kernel = next(telling, None)
    if kernel is not None and kernel.is_contiguous(memory_format=torch.channels_last):
        layout = torch.channels_last
    return dtype, layout


_SMALL = 1e8  # parameters


class _Stop(Exception):
    pass


@dataclass(frozen=True)
class _Passage:
    """Findings of one pass: calls, layout and length of each tap; whether the head is needed."""

    calls: tuple[int, ...]
    nhwc: tuple[bool, ...]
    n_features: tuple[int, ...]
    classifier_too: bool
    maps: tuple[tuple[int, int, int] | None, ...]


class TapReader(nn.Module):
    """The network as a function from pixels to the vectors of its taps.

    The network is shared, not copied: ``reader.to(torch.bfloat16)`` changes the backbone's own.
    Take ``copy.deepcopy(reader)`` where both are needed. One thread at a time may call it.

    Parameters
    ----------
    net
        The frozen network.
    taps
        What to read, in the order of the output.
    preprocess
        For mean, std and the size of the image that is tried first.
    in_chans
        Channels that the network takes: 1 or 3.
    nhwc
        Whether the network says that its maps have their channels last.
    network
        Its name, for error messages.
    """

    def __init__(
        self,
        net: nn.Module,
        taps: Sequence[Tap],
        preprocess: Preprocess,
        in_chans: int = 3,
        nhwc: bool = False,
        network: str = "the network",
    ) -> None:
        super().__init__()
        if not taps:
            raise BackboneError(f"no tap of {network} was asked for")
        self.taps = tuple(taps)
        self.preprocess = preprocess
        self.network = network
        self.net = net
        weight = next(net.parameters(), torch.empty(0))
        self.normalize = Normalize(preprocess, net, in_chans).to(weight.device)
        self._hint = nhwc
        self._probed: _Passage | None = None
        self.train(False)

    def train(self, mode: bool = True) -> TapReader:
        """Stay in eval mode whatever is asked: BatchNorm must not see the batch."""
        super().train(False)
        return self

    @property
    def n_features(self) -> tuple[int, ...]:
        """The length of each tap's vector; the first question runs the network on one image.

        Raises
        ------
        UnknownLayerError
            If a layer never runs.
        BackboneError
            If a layer's value is not a tensor of rank 2, 3 or 4 with one row for each image.
        """
        return self._probe().n_features

    @property
    def nhwc(self) -> tuple[bool, ...]:
        """For each tap whether its layer gives a map with the channels last."""
        return self._probe().nhwc

    @property
    def measured_taps(self) -> tuple[Tap, ...]:
        """The taps, those of pool ``none`` with the shape of their map."""
        maps = self._probe().maps
        return tuple(replace(tap, map=kept) for tap, kept in zip(self.taps, maps, strict=True))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Read every tap in one pass.

        Parameters
        ----------
        images
            uint8, shape (n, height, width, 3), RGB, on the network's device.

        Returns
        -------
        vectors : for each tap float32, shape (n, n_features of the tap)
        """
        probe = self._probe()
        found: dict[int, Tensor] = {}

        def take(k: int, call: int, value: Any) -> None:
            if call != probe.calls[k]:
                return
            vector = self._pool(k, value, probe.nhwc[k])
            if vector.shape != (images.shape[0], probe.n_features[k]):
                raise BackboneError(
                    f"layer {self.taps[k].layer} of {self.network} varies with the image: "
                    f"{tuple(vector.shape)} where ({images.shape[0]}, {probe.n_features[k]}) "
                    "was expected; choose another layer or pool"
                )
            found[k] = vector
            # A tracer loses its place when an exception passes; it drops what is not needed itself.
            if len(found) == len(self.taps) and not torch.compiler.is_compiling():
                raise _Stop

        with self._hooks(take), contextlib.suppress(_Stop):
            self._run(self.normalize(images), take, probe.classifier_too)
        if len(found) < len(self.taps):
            absent = next(t.layer for k, t in enumerate(self.taps) if k not in found)
            raise BackboneError(
                f"layer {absent} of {self.network} ran for the first image but not for this batch"
            )
        return tuple(found[k] for k in range(len(self.taps)))

    def _run(self, pixels: Tensor, take: Callable[[int, int, Any], None], head: bool) -> None:
        wanted = [k for k, tap in enumerate(self.taps) if self._is_pre_logits(tap)]
        if not wanted:
            self.net(pixels)
            return
        net: Any = self.net
        features = net.forward_features(pixels)
        vectors = net.forward_head(features, pre_logits=True)
        for k in wanted:
            take(k, 1, vectors)
        if head:
            net.forward_head(features)

    def _is_pre_logits(self, tap: Tap) -> bool:
        return tap.layer == PRE_LOGITS and PRE_LOGITS not in dict(self.net.named_children())

    @contextlib.contextmanager
    def _hooks(self, take: Callable[[int, int, Any], None]) -> Iterator[None]:
        """Call ``take(tap's index, number of this call, value)`` whenever a wanted layer runs."""
        handles = []
        for k, tap in enumerate(self.taps):
            if self._is_pre_logits(tap):
                continue
            module = self.net.get_submodule(tap.layer)
            handles.append(_watch(module, tap.side == "input", k, take))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _probe(self) -> _Passage:
        if self._probed is None:
            self._probed = self._try_one_image()
        return self._probed

    def _try_one_image(self) -> _Passage:
        calls = [0] * len(self.taps)
        values: dict[int, Any] = {}

        def take(k: int, call: int, value: object) -> None:
            calls[k], values[k] = call, value

        with self._hooks(take):
            self.run_one(take)
        named = [not self._is_pre_logits(tap) for tap in self.taps]
        # Layers of the classifier run only after what pre_logits needs.
        head = not all(named) and any(n and not c for n, c in zip(named, calls, strict=True))
        if head:
            with self._hooks(take):
                self.run_one(take, classifier=True)
        self._check(calls, values)
        nhwc = tuple(self.is_nhwc(values[k].shape) for k in range(len(self.taps)))
        pooled = [self._pool(k, values[k], nhwc[k]) for k in range(len(self.taps))]
        maps = tuple(
            map_shape(values[k].shape, nhwc[k]) if tap.pool == "none" else None
            for k, tap in enumerate(self.taps)
        )
        return _Passage(tuple(calls), nhwc, tuple(v.shape[1] for v in pooled), head, maps)

    def _pool(self, k: int, value: Tensor, nhwc: bool) -> Tensor:
        try:
            return pool_map(value, self.taps[k].pool, nhwc)
        except BackboneError as error:
            raise BackboneError(f"layer {self.taps[k].layer} of {self.network}: {error}") from None

    def run_one(
        self, take: Callable[[int, int, Any], None] | None = None, classifier: bool = False
    ) -> None:
        """Run the network on one black image.

        Raises
        ------
        BackboneError
            If the network fails on an image of this size.
        """
        device = self.normalize.mean.device
        image = torch.zeros((1, *self.preprocess.input_size, 3), dtype=torch.uint8, device=device)
        try:
            with torch.no_grad(), _one_thread(self.net):
                self._run(self.normalize(image), take or (lambda k, call, value: None), classifier)
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            height, width = self.preprocess.input_size
            reason = words_of(error)
            raise BackboneError(
                f"{self.network} cannot take an image of {height}x{width} pixels: {reason}"
            ) from error

    def is_nhwc(self, shape: Sequence[int]) -> bool:
        """True if a value of this shape is a map with its channels last."""
        return len(shape) == 4 and is_nhwc(shape, self.preprocess.input_size, self._hint)

    def _check(self, calls: Sequence[int], values: dict[int, Any]) -> None:
        for k, tap in enumerate(self.taps):
            where = f"layer {tap.layer} of {self.network}"
            if not calls[k]:
                raise UnknownLayerError(f"{where} never runs; choose one that `featx layers` lists")
            value = values[k]
            if not isinstance(value, Tensor):
                raise BackboneError(
                    f"{where} gives a {type(value).__name__}, not a tensor; choose a layer inside "
                    "or after it"
                )
            if value.ndim not in (2, 3, 4) or value.shape[0] != 1:
                raise BackboneError(
                    f"{where} gives shape {tuple(value.shape)} for one image; featx reads "
                    "(1, d), (1, tokens, d) and (1, d, height, width)"
                )


@contextlib.contextmanager
def _one_thread(net: nn.Module) -> Iterator[None]:
    """Let one image pass a network of usual size in one thread.

    Several would wait for each other in every layer, on a busy machine for a hundred times longer.
    """
    before = torch.get_num_threads()
    if sum(p.numel() for p in net.parameters()) < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _watch(
    module: nn.Module, at_input: bool, k: int, take: Callable[[int, int, Any], None]
) -> torch.utils.hooks.RemovableHandle:
    count = 0

    def before(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        take(k, count, next(iter((*args, *kwargs.values())), None))

    def after(_: nn.Module, args: tuple[object, ...], output: object) -> None:
        nonlocal count
        count += 1
        take(k, count, output)

    if at_input:
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)
