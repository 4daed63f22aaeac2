"""Checkpoints as training code writes them: what is taken, preferred, dropped, refused."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import pathlib
import re
import types
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from featx.backbones import Backbone, from_timm, load_backbone
from featx.backbones.checkpoint import read_checkpoint
from featx.backbones.from_timm import build
from featx.backbones.recipe import fill
from featx.backbones.weights import digest_state
from featx.errors import UnknownLayerError, WeightsError

NAME = "torchvision:resnet18"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(5)
    return dict(torchvision.models.resnet18(num_classes=5).state_dict())


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def body(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def other(state: State) -> State:
    return {n: t * 0.5 if t.is_floating_point() else t.clone() for n, t in state.items()}


def head(prefix: str, *layers: str) -> State:
    return {
        f"{prefix}{layer}.{n}": torch.ones(2, 2) for layer in layers for n in ("weight", "bias")
    }


def by_number(state: State, head: str = "") -> State:
    """Names of ``nn.Sequential(*resnet.children())``."""
    children = [n for n, _ in torchvision.models.resnet18().named_children()]
    parts = (n.partition(".") for n in state)
    return {f"{head}{children.index(a)}.{c}": state[f"{a}.{c}"] for a, _, c in parts}


def read(path: Path, content: Any, key: str = "") -> Backbone:
    torch.save(content, path)
    return load_backbone(NAME, weights=f"{path}#{key}" if key else path)


QUEUE = {"queue": torch.zeros(8, 4), "queue_ptr": torch.zeros(1, dtype=torch.long)}

FORMS: dict[str, Any] = {
    "moco": lambda s: {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": {
            **under("module.", QUEUE),
            **under("module.encoder_k.", other(s)),
            **under("module.encoder_q.", {**body(s), **head("fc.", "0", "2")}),
        },
    },
    "moco-v3": lambda s: {
        "state_dict": {
            **under("module.momentum_encoder.", other(s)),
            **under("module.base_encoder.", {**body(s), **head("fc.", "0", "3")}),
            **head("module.predictor.", "0"),
        }
    },
    "simsiam": lambda s: {
        "state_dict": {
            **under("module.encoder.", {**body(s), **head("fc.", "0", "3", "6")}),
            **head("module.predictor.", "0", "3"),
        }
    },
    "byol": lambda s: {
        **under("target_encoder.net.", other(s)),
        **under("online_encoder.net.", s),
        **under("net.", s),
        **head("online_predictor.net.", "0"),
    },
    "dino": lambda s: {
        "student": {**under("module.backbone.", other(body(s))), **head("module.head.", "mlp.0")},
        "teacher": {**under("backbone.", body(s)), **head("head.", "mlp.0", "last_layer")},
        "dino_loss": {"center": torch.zeros(1, 4)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    },
    "lightning": lambda s: {
        "state_dict": {**under("model.", s), "criterion.weight": torch.ones(5)},
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best": torch.tensor(0.1)}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}}],
    },
    "lightly": lambda s: {
        "state_dict": {
            **by_number(other(body(s)), "backbone_momentum."),
            **by_number(body(s), "backbone."),
            **head("projection_head.", "layers.0", "layers.2"),
            "criterion.memory_bank": torch.zeros(4, 4),
        }
    },
    "lightly-dino": lambda s: {
        "state_dict": {
            **by_number(body(s), "teacher_backbone."),
            **by_number(other(body(s)), "student_backbone."),
        }
    },
    "fastai": lambda s: {
        "model": {**by_number(body(s), "0."), **head("1.", "2", "4", "8")},
        "opt": {"state": [{"grad_avg": torch.ones(3)}], "hypers": [{"lr": 0.1}]},
    },
    "sequential": lambda s: by_number(body(s)),
    "timm": lambda s: {
        "epoch": 4,
        "arch": "resnet18",
        "state_dict": other(s),
        "state_dict_ema": s,
        "args": argparse.Namespace(model="resnet18", data_dir=Path("x"), lr=0.1),
        "amp_scaler": {"scale": 65536.0},
        "metric": np.float64(0.5),
    },
    "torchvision": lambda s: {
        "model": other(s),
        "model_ema": {"n_averaged": torch.tensor(9), **under("module.", s)},
        "optimizer": {"state": {}, "param_groups": []},
        "lr_scheduler": {"milestones": collections.Counter([30])},
        "args": argparse.Namespace(lr=0.1),
    },
    "swa": lambda s: {"n_averaged": torch.tensor(9), **under("module.", s)},
    "ddp-compiled": lambda s: under("module._orig_mod.", s),
    "compiled-ddp-lightning": lambda s: {"state_dict": under("model._orig_mod.module.", s)},
    "part-compiled": lambda s: {n.replace("layer1.", "layer1._orig_mod."): t for n, t in s.items()},
    "deep": lambda s: {"checkpoint": {"net": under("a.backbone.module.trunk.", s)}},
    "new-classifier": lambda s: {**body(s), **head("fc.", "0", "3")},
    "other-classifier": lambda s: {**body(s), **head("classifier.", "0")},
    "wide-classifier": lambda s: {
        **body(s),
        "fc.weight": torch.ones(3, 7),
        "fc.bias": torch.ones(3),
    },
    "no-classifier": body,
    "in-a-list": lambda s: {"models": [s]},
    "arrays": lambda s: {"model": {n: t.numpy() for n, t in s.items()}},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_network_is_found_in_a_checkpoint(tmp_path: Path, state: State, form: str) -> None:
    found = read(tmp_path / "net.pth", FORMS[form](state))
    loaded = found.net.state_dict()
    for name, tensor in body(state).items():
        assert torch.equal(loaded[name], tensor), name
    assert found.weights.notes
    assert all("\n" not in note for note in found.weights.notes)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (
            "moco",
            ("taken: state_dict.module.encoder_q", "preferred to state_dict.module.encoder_k"),
        ),
        ("moco", ("dropped: fc (4 entries)", "left out: state_dict.module.queue", "epoch, arch")),
        ("dino", ("taken: teacher.backbone", "preferred to student.module.backbone", "optimizer")),
        ("timm", ("taken: state_dict_ema", "preferred to state_dict", "args")),
        ("torchvision", ("taken: model_ema.module", "preferred to model", "model_ema.n_averaged")),
        ("lightning", ("taken: state_dict.model", "left out: state_dict.criterion")),
        ("fastai", ("taken: model.0", "left out: model.1 (6 entries)")),
        ("new-classifier", ("dropped: fc (4 entries)", "the file has no")),
    ],
)
def test_what_was_taken_and_left_is_said(
    tmp_path: Path, state: State, form: str, words: tuple[str, ...]
) -> None:
    said = "; ".join(read(tmp_path / "net.pth", FORMS[form](state)).weights.notes)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("form", "key"),
    [
        ("moco", "encoder_k"),
        ("moco", "state_dict.module.encoder_k"),
        ("dino", "student"),
        ("timm", "state_dict"),
        ("torchvision", "model"),
        ("lightly", "backbone_momentum"),
    ],
)
def test_a_key_chooses_the_other_network(tmp_path: Path, state: State, form: str, key: str) -> None:
    found = read(tmp_path / "net.pth", FORMS[form](state), key)
    assert torch.equal(found.net.state_dict()["conv1.weight"], other(state)["conv1.weight"])
    assert found.weights.source.endswith(f"net.pth#{key}")


def test_safetensors_are_chosen_from_alike(tmp_path: Path, state: State) -> None:
    path = tmp_path / "net.safetensors"
    save_file({**under("student.", other(state)), **under("teacher.", state)}, path)
    assert load_backbone(NAME, weights=path).weights.digest == digest_state(state)
    student = load_backbone(NAME, weights=f"{path}#student")
    assert student.weights.digest == digest_state(other(state))


def test_a_file_whose_name_has_the_sign_is_a_file(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "net#1.pth")
    found = load_backbone(NAME, weights=tmp_path / "net#1.pth")
    assert found.weights.digest == digest_state(state)


def test_an_unknown_key_names_the_keys(tmp_path: Path, state: State) -> None:
    with pytest.raises(WeightsError, match=r"has no 'teecher'; did you mean teacher.*it holds"):
        read(tmp_path / "net.pth", {"teacher": state}, "teecher")


def test_two_networks_that_fit_equally_are_not_guessed(tmp_path: Path, state: State) -> None:
    two = {"left": state, "right": other(state)}
    with pytest.raises(WeightsError, match=r"several networks that fit: left, right; choose with"):
        read(tmp_path / "net.pth", two)
    same = read(tmp_path / "same.pth", {"left": state, "right": dict(state)})
    assert same.weights.digest == digest_state(state)


def test_a_deeper_network_of_the_same_names_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "34.pth")
    with pytest.raises(WeightsError, match=r"does not fit torchvision:resnet18: .*unexpected"):
        load_backbone(NAME, weights=tmp_path / "34.pth")


def test_a_file_of_another_network_says_what_it_is(tmp_path: Path) -> None:
    content = {"arch": "test_vit", "state_dict": build("test_vit").state_dict()}
    with pytest.raises(WeightsError, match=r"it holds state_dict .*says 'test_vit'"):
        read(tmp_path / "vit.pth", content)


def test_a_layer_that_the_file_lacks_is_not_read_at_random(tmp_path: Path, state: State) -> None:
    found = read(tmp_path / "net.pth", body(state))
    assert [tap.name for tap in found.select(["layer4"])] == ["layer4"]
    with pytest.raises(
        UnknownLayerError, match=r"'fc' cannot be read: .*net\.pth has no fc\.weight"
    ):
        found.select(["fc"])


INERT: dict[str, Any] = {
    "namespace": argparse.Namespace(a=1, b=[argparse.Namespace()], c=Path("x")),
    "path": Path("a/b"),
    "windows-path": pathlib.PureWindowsPath("a/b"),
    "float64": np.float64(1.5),
    "int64": np.int64(3),
    "bool": np.bool_(True),
    "array": np.arange(6.0).reshape(2, 3),
    "text-array": np.array(["a", "b"]),
    "dtype": np.dtype("float32"),
    "rng": np.random.get_state(),  # noqa: NPY002
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "ordered": collections.OrderedDict(a=1),
    "counter": collections.Counter("aab"),
    "datetime": datetime.datetime.now(datetime.UTC),
    "timedelta": datetime.timedelta(seconds=3),
    "simple-namespace": types.SimpleNamespace(a=1),
    "set": {1, 2},
    "frozenset": frozenset({1}),
    "bytes": b"abc",
    "complex": 1j,
    "slice": slice(3),
    "range": range(3),
    "device": torch.device("cpu"),
    "torch-dtype": torch.float16,
    "torch-version": torch.__version__,
    "size": torch.Size([1, 2]),
}


@pytest.mark.parametrize("kind", INERT)
def test_inert_types_beside_the_weights_load(tmp_path: Path, state: State, kind: str) -> None:
    found = read(tmp_path / "net.pth", {"state_dict": state, "extra": INERT[kind], "epoch": 1})
    assert found.weights.digest == digest_state(state)


def test_inert_types_are_not_imported(tmp_path: Path, state: State) -> None:
    torch.save({"model": state, "args": argparse.Namespace(path=Path("x"))}, tmp_path / "net.pth")
    from featx.backbones.checkpoint import _torch

    args = _torch(tmp_path / "net.pth")["args"]
    assert type(args).__module__ == "featx.backbones.pickled"
    assert args.values == {"path": "x"}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "torch.nn.modules.container.Sequential"),
        ({"m": Path.exists}, "getattr"),
        ({"m": __import__("fractions").Fraction}, None),
        ({"e": pytest.ExitCode.OK}, "ExitCode"),
        ({"f": torch.relu}, "getattr"),
    ],
)
def test_what_needs_code_is_refused_by_name(
    tmp_path: Path, content: Any, named: str | None
) -> None:
    if named is None:
        with pytest.raises(WeightsError, match="holds no tensors"):
            read(tmp_path / "net.pth", content)
        return
    with pytest.raises(WeightsError, match=rf"net\.pth is refused: it holds a .*{named}") as caught:
        read(tmp_path / "net.pth", content)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.jit is on its way out
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
    with pytest.raises(WeightsError, match="a TorchScript archive, which is code"):
        load_backbone(NAME, weights=tmp_path / "net.pt")


def test_a_headless_transformer_of_another_size_is_converted(tmp_path: Path) -> None:
    torch.manual_seed(2)
    net = timm.create_model("test_vit", img_size=192)
    teacher = {n: t for n, t in net.state_dict().items() if not n.startswith("head.")}
    content = {
        "teacher": {**under("module.backbone.", teacher), **head("module.head.", "mlp.0")},
        "student": under("module.backbone.", other(teacher)),
    }
    torch.save(content, tmp_path / "dino.pth")
    found = load_backbone("timm:test_vit", weights=tmp_path / "dino.pth")
    assert "taken: teacher.module.backbone" in found.weights.notes
    assert "entries converted by timm" in found.weights.notes
    loaded = found.net.state_dict()["blocks.0.attn.qkv.weight"]
    assert torch.equal(loaded, teacher["blocks.0.attn.qkv.weight"])
    with pytest.raises(UnknownLayerError, match="'head' cannot be read"):
        found.select(["head"])


VIT = "timm:test_vit"


def test_a_transformer_with_registers_is_not_one_without(tmp_path: Path) -> None:
    vit = load_backbone(VIT, weights="random").net.state_dict()
    for name in ("reg_token", "register_tokens", "absolute_pos_embed"):
        torch.save(vit | {name: torch.zeros(1, 4, 64)}, tmp_path / "net.pth")
        with pytest.raises(WeightsError, match=rf"1 unexpected \({name}\)"):
            load_backbone(VIT, weights=tmp_path / "net.pth")
    training = {"mask_token": torch.zeros(1, 1, 64), "decoder_pos_embed": torch.zeros(1, 4, 64)}
    torch.save(vit | training, tmp_path / "net.pth")
    found = load_backbone(VIT, weights=tmp_path / "net.pth")
    assert found.weights.notes == ("dropped: mask_token, decoder_pos_embed",)


def test_patches_of_another_size_are_another_network(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", patch_size=32).state_dict(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"\(64, 3, 32, 32\) instead of \(64, 3, 16, 16\)"):
        load_backbone(VIT, weights=tmp_path / "net.pth")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("kind", ["int8", "qint8", "complex64"])
def test_weights_that_are_not_decimals_are_refused(tmp_path: Path, state: State, kind: str) -> None:
    weight = state["layer1.0.conv1.weight"]
    made = (
        torch.quantize_per_tensor(weight, 0.01, 0, torch.qint8)
        if kind == "qint8"
        else weight.to(getattr(torch, kind))
    )
    with pytest.raises(WeightsError, match=rf"layer1.0.conv1.weight is {kind}, where"):
        read(tmp_path / "net.pth", {**state, "layer1.0.conv1.weight": made})


@pytest.mark.parametrize(
    ("name", "shape"),
    [("layer1.0.conv1.weight", (64, 32, 3, 3)), ("bn1.weight", (32,))],
)
def test_an_entry_of_another_shape_is_the_only_one_that_is_named(
    tmp_path: Path, state: State, name: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(WeightsError, match=rf", 1 of another shape \({name} \({shape[0]},"):
        read(tmp_path / "net.pth", {**state, name: torch.zeros(shape)})


CLIP = (  # the names of OpenAI's CLIP and of open_clip
    ("patch_embed.proj.", "conv1."),
    ("norm_pre.", "ln_pre."),
    ("blocks.", "transformer.resblocks."),
    (".norm", ".ln_"),
    ("attn.qkv.", "attn.in_proj_"),
    ("attn.proj.", "attn.out_proj."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
)


@pytest.mark.parametrize("prefix", ["visual.", "state_dict.module.visual.", ""])
def test_the_picture_tower_of_clip_is_converted(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(3)
    net = timm.create_model("vit_tiny_patch16_224", pre_norm=True, num_classes=0)
    tower = {}
    for name, tensor in net.state_dict().items():
        clip = re.sub(r"^norm\.", "ln_post.", name)
        for ours, theirs in CLIP:
            clip = clip.replace(ours, theirs)
        tower[clip] = tensor
    tower["class_embedding"] = tower.pop("cls_token")[0, 0]
    tower["positional_embedding"] = tower.pop("pos_embed")[0]
    tower["proj"] = torch.zeros(192, 32)
    texts = {"text_projection": torch.zeros(4, 4), "ln_final.weight": torch.ones(4)}
    file = under(prefix, tower) | (texts if prefix else {})
    torch.save(file, tmp_path / "net.pth")
    recipe = from_timm.recipe("vit_tiny_patch16_224")
    tall = replace(
        recipe,
        build=partial(timm.create_model, "vit_tiny_patch16_224", pre_norm=True),
        convert=lambda state: timm.create_model(
            "vit_tiny_patch16_224",
            pre_norm=True,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": state, "custom_load": False},
        ),
    )
    found = fill(tall, read_checkpoint(tmp_path / "net.pth"), None)
    own = net.state_dict()
    assert all(torch.equal(found.loaded[name], own[name]) for name in own)
    assert "entries converted by timm" in found.notes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html><head><title>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a pointer of Git LFS"),
        (b'{"architectures": ["ResNet"]}', "a JSON text"),
        (b"\x1f\x8b\x08 torn", "compressed by gzip"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"", "damaged: it is empty"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_not_weights_is_said_as_what_it_is(
    tmp_path: Path, content: bytes, said: str, suffix: str
) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"net{re.escape(suffix)} is {said}"):
        load_backbone(NAME, weights=path)


def test_the_format_is_that_of_the_content_not_of_the_name(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "net.pth")
    torch.save(state, tmp_path / "net.safetensors")
    for name in ("net.pth", "net.safetensors"):
        assert load_backbone(NAME, weights=tmp_path / name).weights.digest == digest_state(state)


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def sharded(folder: Path, state: State) -> Path:
    """Write a state as Hugging Face's libraries write a large one."""
    names, half = list(state), len(state) // 2
    for file, own in zip(SHARDS, (names[:half], names[half:]), strict=True):
        save_file({n: state[n] for n in own}, folder / file)
    places = {name: SHARDS[k >= half] for k, name in enumerate(names)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_an_index_stands_for_the_files_that_it_names(tmp_path: Path, state: State) -> None:
    index = sharded(tmp_path, state)
    found = load_backbone(NAME, weights=index).weights
    assert found.digest == digest_state(state)
    assert {Path(f).name for f in found.files or ()} >= {index.name, *SHARDS}
    with pytest.raises(WeightsError, match=r"is a folder.*it: model\.safetensors\.index\.json$"):
        load_backbone(NAME, weights=tmp_path)
    (tmp_path / SHARDS[1]).unlink()
    with pytest.raises(WeightsError, match=rf"names {SHARDS[1]}, which is not beside it"):
        load_backbone(NAME, weights=index)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"weight_map": {"a": "../net.pth"}}', r"refused: it names '\.\./net\.pth'"),
        ('{"weight_map": []}', "not an index"),
        ('{"weight_map": {}}', "names no file"),
        ("[1, 2", "not an index"),
    ],
)
def test_an_index_that_is_none_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.index.json").write_text(text)
    with pytest.raises(WeightsError, match=said):
        load_backbone(NAME, weights=tmp_path / "x.index.json")


def test_half_a_file_and_an_archive_around_one_say_so(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "net.pth")
    whole = (tmp_path / "net.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "outer.pth", "w") as archive:
        archive.write(tmp_path / "net.pth", "net.pth")
    for name, said in (("half", "its end is missing"), ("outer", "unpack it first")):
        with pytest.raises(WeightsError, match=said):
            load_backbone(NAME, weights=tmp_path / f"{name}.pth")


def test_a_network_in_place_of_weights_is_said_as_one(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(WeightsError, match=r"network of its own \(ONNX\); name it by --backbone"):
        load_backbone(NAME, weights=tmp_path / "net.onnx")
