"""Checkpoints made to harm: every opcode of pickle, every way to call, sizes that are lies."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from featx.backbones.checkpoint import Checkpoint, read_checkpoint
from featx.errors import WeightsError

pytestmark = pytest.mark.slow

CALLS = (
    *("os.system", "posix.system", "nt.system", "os.popen", "subprocess.Popen"),
    *("subprocess.check_output", "builtins.eval", "builtins.exec", "builtins.open"),
    *("builtins.getattr", "builtins.setattr", "builtins.__import__", "builtins.compile"),
    *("builtins.bytearray", "builtins.print", "importlib.import_module", "runpy.run_path"),
    *("pathlib.Path.touch", "pathlib.Path.unlink", "shutil.rmtree", "shutil.copy"),
    *("operator.attrgetter", "operator.methodcaller", "functools.partial", "functools.reduce"),
    *("types.FunctionType", "types.CodeType", "types.ModuleType", "code.interact"),
    *("ctypes.CDLL", "socket.create_connection", "webbrowser.open", "urllib.request.urlopen"),
    *("pickle.loads", "pickle.load", "marshal.loads", "shelve.open", "joblib.load"),
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.storage._load_from_bytes"),
    *("torch.utils.cpp_extension.load", "torch.serialization.load", "torch._utils.os.system"),
    *("torch._dynamo.guards.CheckFunctionManager", "torch.nn.modules.linear.Linear"),
    *("numpy.load", "numpy.core.multiarray.fromfile", "numpy.memmap", "numpy.f2py.compile"),
    *("numpy.ndarray.tofile", "collections.abc.Callable", "collections.namedtuple"),
    *("argparse.FileType", "pathlib.Path.open", "datetime.datetime.strptime", "timm.create_model"),
    *("featx.backbones.pickled.Inert", "__main__.Anything", "sys.exit", "signal.raise_signal"),
)


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def calls(name: str, canary: Path) -> dict[str, bytes]:
    """Pickles that call `name` on the canary's path, one for each way that pickle has."""
    module, _, function = name.rpartition(".")
    plain = f"c{module}\n{function}\n".encode()
    stacked = text(module) + text(function) + b"\x93"
    one = text(str(canary))
    return {
        "reduce": b"\x80\x02" + plain + one + b"\x85R.",
        "stack-global": b"\x80\x04" + stacked + one + b"\x85R.",
        "inst": b"(" + one + f"i{module}\n{function}\n.".encode(),
        "obj": b"(" + plain + one + b"o.",
        "newobj": b"\x80\x02" + plain + one + b"\x85\x81.",
        "newobj-ex": b"\x80\x04" + plain + one + b"\x85}\x92.",
        "build": b"\x80\x02" + plain + b"}" + text("x") + one + b"sb.",
        "build-slots": b"\x80\x02cargparse\nNamespace\n)R" + b"N}" + text("x") + plain + b"s\x86b.",
        "persistent": b"\x80\x02" + plain + one + b"\x85Q.",
        "in-a-dict": b"\x80\x02}" + text("state_dict") + plain + one + b"\x85Rs.",
        "memo": b"\x80\x02" + plain + b"q\x000h\x00" + one + b"\x85R.",
    }


def write(path: Path, raw: bytes, old: bool) -> Path:
    """A torch file, new or old, whose content is the given pickle."""
    if old:
        stream = io.BytesIO()
        torch.save({}, stream, _use_new_zipfile_serialization=False)
        whole, stream = stream.getvalue(), io.BytesIO(stream.getvalue())
        for _ in range(3):
            pickle.load(stream)
        path.write_bytes(whole[: stream.tell()] + raw + pickle.dumps([], 2))
        return path
    made = io.BytesIO()
    torch.save({"a": torch.ones(2)}, made)
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            own = raw if info.filename.endswith("data.pkl") else source.read(info)
            target.writestr(info.filename, own)
    return path


def outcome(path: Path) -> str:
    """The refusal in one line, or "" where the file could be read."""
    said = ""
    try:
        assert isinstance(read_checkpoint(path), Checkpoint)
    except WeightsError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 700
    return said


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_no_way_to_call_runs_anything(tmp_path: Path, name: str, old: bool) -> None:
    canary = tmp_path / "canary"
    for way, raw in calls(name, canary).items():
        said = outcome(write(tmp_path / "net.pth", raw, old))
        assert said, way
        assert f"holds a {name}" in said, (way, said)
        assert not canary.exists(), way
    assert [p.name for p in tmp_path.iterdir()] == ["net.pth"]


@pytest.mark.parametrize("name", ["argparse.Namespace", "collections.OrderedDict"])
def test_the_ways_are_ways(tmp_path: Path, name: str) -> None:
    """With a type that is allowed, most of them reach torch and some make an object."""
    done = [
        outcome(write(tmp_path / "net.pth", raw, False))
        for raw in calls(name, tmp_path / "canary").values()
    ]
    assert any("holds no tensors" in said or "not a state dict" in said for said in done)


def arguments(opcode: pickletools.OpcodeInfo) -> list[bytes]:
    """Arguments of an opcode: none, small, the largest, text."""
    size = getattr(opcode.arg, "n", 0)
    if size and size > 0:
        return [bytes(size), b"\xff" * size, b"\x7f" * size, bytes([1]) + bytes(size - 1)]
    return [b"", b"\n", b"1\n", b"x\n", b"x\ny\n", b"\xff" * 8, b"\x04\0\0\0abcd", b"\x03abc"]


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_every_opcode_at_every_place_ends_in_a_line(
    tmp_path: Path, opcode: pickletools.OpcodeInfo
) -> None:
    made = io.BytesIO()
    torch.save({"a": torch.ones(2), "b": (1, [2.5, {"c": None}])}, made)
    with zipfile.ZipFile(made) as source:
        name = next(n for n in source.namelist() if n.endswith("data.pkl"))
        whole = source.read(name)
    places = [place for *_, place in pickletools.genops(whole) if place][::4]
    for argument in arguments(opcode):
        own = opcode.code.encode("latin1") + argument
        for place in places:
            outcome(write(tmp_path / "net.pth", whole[:place] + own + whole[place:], False))
        outcome(write(tmp_path / "net.pth", b"\x80\x02}" + own + b".", True))


def test_flipped_bytes_end_in_a_line(tmp_path: Path) -> None:
    made = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(2), "b": torch.zeros(3, 4)}, "epoch": 3}, made)
    dice = random.Random(0)
    refused = 0
    for _ in range(1500):
        raw = bytearray(made.getvalue())
        for _ in range(dice.choice((1, 1, 2, 8))):
            raw[dice.randrange(len(raw))] = dice.randrange(256)
        (tmp_path / "net.pth").write_bytes(raw)
        refused += bool(outcome(tmp_path / "net.pth"))
    assert refused > 100


BOMBS = {
    "deep-tuple-key": b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "deep-tuple": b"\x80\x02)" + b"\x85" * 1_000_000 + b".",
    "deep-marks": b"\x80\x02" + b"(" * 500_000 + b"t" * 500_000 + b".",
    "deep-list": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
    "deep-dict": b"\x80\x02" + (b"}" + text("a")) * 200_000 + b"N" + b"s" * 200_000 + b".",
    "long-text": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "long-bytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.",
    "long-number": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "self": b"\x80\x02}q\x00" + text("a") + b"h\x00s.",
    "bytearray": b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\x01\x85R.",
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_ends_in_a_line(tmp_path: Path, kind: str, old: bool) -> None:
    assert outcome(write(tmp_path / "net.pth", BOMBS[kind], old))


def test_lists_of_lists_of_lists_are_counted_once_and_refused(tmp_path: Path) -> None:
    content: list[object] = [torch.ones(1)]
    for _ in range(9):
        content = [content] * 10
    torch.save(content, tmp_path / "net.pth")
    assert (tmp_path / "net.pth").stat().st_size < 10_000
    assert "entries inside each other" in outcome(tmp_path / "net.pth")


def test_an_archive_that_unpacks_to_a_thousandfold_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        archive.writestr("net/data/0", bytes(50_000_000))
    assert "would become 50 MB" in outcome(tmp_path / "net.pth")


def test_a_tensor_of_a_huge_shape_without_bytes_takes_no_memory(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "net.pth")
    assert read_checkpoint(tmp_path / "net.pth").tensors["conv1.weight"].numel() == 10**12
    from featx.backbones import load_backbone

    with pytest.raises(WeightsError, match="does not fit"):
        load_backbone("torchvision:resnet18", weights=tmp_path / "net.pth")
