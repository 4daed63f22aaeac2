"""A lowered network that is kept, and what runs it where nothing is tried."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_runtime import needs_bf16
from test_runtime_lowering import NETS, SHAPE, images, reader

from featx.files import cache_home
from featx.runtime import Runner, plan_runtime
from featx.runtime.graph.kept import keep_graph, read_graph
from featx.runtime.graph.lowering import lowered
from featx.runtime.native import is_sound, keep, payload


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATX_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("name", NETS)
def test_a_kept_graph_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    graph = lowered(reader(name), SHAPE)
    keep_graph(graph, tmp_path / "kept" / "n.graph")
    assert is_sound(tmp_path / "kept" / "n.graph")
    again = read_graph(tmp_path / "kept" / "n.graph")
    for a, b in zip(graph(images()), again(images()), strict=True):
        assert torch.equal(a, b)
    strides = {v.stride() for v in graph.state_dict().values()}
    assert {v.stride() for v in again.state_dict().values()} <= strides


@pytest.mark.parametrize(
    ("part", "value"),
    [("target", "os.system.default"), ("target", "aten.none.default"), ("op", "call_module")],
)
def test_only_operators_of_aten_are_read(part: str, value: str, tmp_path: Path) -> None:
    keep_graph(lowered(reader("depthwise"), SHAPE), tmp_path / "a")
    found = torch.load(io.BytesIO(payload(tmp_path / "a")), weights_only=True)
    nodes = json.loads(found["nodes"])
    next(node for node in nodes if node["op"] == "call_function")[part] = value
    torch.save({**found, "nodes": json.dumps(nodes)}, tmp_path / "changed")
    keep(tmp_path / "changed", tmp_path / "b")
    with pytest.raises((ValueError, AttributeError)):
        read_graph(tmp_path / "b")


def settled_plan(precision: str) -> object:
    plan = plan_runtime(device="cpu", precision=precision, batch_size=SHAPE[0], threads=1)
    return replace(plan, settled=True)


def never() -> torch.nn.Module:
    raise AssertionError("the network was loaded")


@needs_bf16
def test_a_settled_run_takes_the_network_of_the_run_before() -> None:
    pixels = images().numpy()
    plan = plan_runtime(device="cpu", batch_size=SHAPE[0], threads=1, compile="off")
    with Runner(reader("depthwise"), plan, SHAPE[1:], "key") as runner:
        first = runner(pixels)
    assert runner.precision == "bf16"
    with Runner(never, settled_plan("bf16"), SHAPE[1:], "key") as runner:
        second = runner(pixels)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    (kept,) = (cache_home() / "packages").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    with Runner(lambda: reader("depthwise"), settled_plan("bf16"), SHAPE[1:], "key") as runner:
        np.testing.assert_array_equal(first[0], runner(pixels)[0])
    with (
        Runner(never, settled_plan("bf16"), SHAPE[1:], "another key") as runner,
        pytest.raises(AssertionError, match="was loaded"),
    ):
        runner(pixels)


@needs_bf16
def test_where_bf16_is_given_up_the_network_is_kept_in_float32() -> None:
    pixels, exact = images().numpy(), reader("depthwise")(images())
    rough = reader("depthwise")
    with torch.no_grad():  # an output that cancels: rounding is all that is left of it
        rough.net[-1].bias -= rough(images())[0].mean(0)
    plan = plan_runtime(device="cpu", batch_size=SHAPE[0], threads=1, compile="off")
    with Runner(rough, plan, SHAPE[1:], "key") as runner:
        first = runner(pixels)
    assert runner.precision == "fp32"
    with Runner(never, settled_plan("fp32"), SHAPE[1:], "key") as runner:
        second = runner(pixels)
    size = float(np.abs(exact[0].numpy()).max())
    np.testing.assert_allclose(first[0], second[0], atol=1e-5 * size)


def test_a_settled_run_in_float32_is_the_network_as_it_is() -> None:
    pixels = images().numpy()
    with Runner(lambda: reader("residual"), settled_plan("fp32"), SHAPE[1:], "key") as runner:
        found = runner(pixels)
    assert not runner.compiled
    for a, b in zip(reader("residual")(images()), found, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-6)
