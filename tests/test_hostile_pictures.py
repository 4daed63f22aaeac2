"""Pictures that ask for a program, minutes or gigabytes: refused, and nothing is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.hostile_pictures import PICTURES, encoded, jpeg_scans, small
from featx.errors import ImageError
from featx.images import decode, image_extensions, open_image
from featx.images.decoding import decode_plain
from featx.images.formats import WANTED

ROOT = Path(__file__).parent.parent

# Built in an instant, and decoded in one where nothing bounds them: the slow test takes all.
QUICK = [name for name in PICTURES if name.split(".")[0].split("-")[0] in {
    "iptc", "eps", "pipe", "blp", "psd", "dds", "fits", "header", "exif", "profile", "mpf", "tags",
    "tile", "canvas", "frame", "tiles", "components", "blocks", "layers", "side", "empty", "noise",
    "wmf", "emf", "h5", "grib", "bufr", "mpg", "fli", "ole", "pcd", "gbr", "ftex", "msp", "xv",
    "area", "pxr", "cur", "im", "pdf", "svg", "spider",
} and name != "iptc-png.jpg" and name != "blocks.gif"]  # fmt: skip

WATCHED = """
import json, resource, sys
from pathlib import Path
from featx.images.decoding import decode
from featx.errors import ImageError
from benchmarks.hostile_pictures import PICTURES

started, found = [], {}
kinds = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty",
         "pty.spawn", "os.startfile", "socket.connect")
sys.addaudithook(lambda kind, details: started.append(kind) if kind in kinds else None)
for name in json.loads(sys.argv[1]):
    data = PICTURES[name]()
    try:
        found[name] = list(decode(data).shape)
    except ImageError as error:
        found[name] = str(error)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
torch = "torch" in sys.modules
print(json.dumps({"started": started, "found": found, "peak": peak, "torch": torch}))
"""


def decode_watched(names: list[str], folder: Path) -> dict[str, object]:
    """Decode in a process that notes what it starts, with stand-ins of programs on its path."""
    programs = folder / "bin"
    programs.mkdir()
    for name in (
        "gs",
        "gswin64c",
        "gswin32c",
        "sh",
        "djpeg",
        "cjpeg",
        "ppmtogif",
        "xdg-open",
        "id",
    ):
        program = programs / name
        program.write_text(f"#!/bin/sh\necho {name} >> {folder}/executed\necho 10.0\n")
        program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(names)],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "executed").exists()
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_no_picture_starts_a_program(tmp_path: Path) -> None:
    assert len(QUICK) > 45
    done = decode_watched(QUICK, tmp_path)
    assert done["started"] == []
    assert done["torch"] is False
    assert {str(v) for v in done["found"].values() if isinstance(v, list)} == set()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_all_pictures_end_in_a_reason_and_little_memory(tmp_path: Path) -> None:
    done = decode_watched([*PICTURES], tmp_path)
    assert done["started"] == []
    read = {name for name, v in done["found"].items() if isinstance(v, list)}  # type: ignore[attr-defined]
    assert read == set()
    assert int(str(done["peak"])) < 1500  # the largest file has 150 MB, and is made here


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("scans.jpg", "more than 100 scans"),
        ("exif.png", "40000 tags in one directory"),
        ("profile.png", "20000 tags in one directory"),
        ("exif.jpg", "5000 tags"),
        ("mpf.jpg", "tags that claim 85000000 bytes"),
        ("tile.tif", "tiles of 40000x40000 pixels in a picture of 64x64"),
        ("canvas-16k.webp", "bomb"),
        ("frame.gif", "bomb|65535x65535"),
        ("tiles.j2k", "62500 tiles"),
        ("components.j2k", "16000 components"),
        ("blocks.j2k", "very many blocks"),
        ("layers.j2k", "very many blocks or layers"),
        ("side.tga", "bomb|pixels"),
    ],
)
def test_what_a_header_asks_for_is_refused(name: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(PICTURES[name]())


def test_scans_are_counted_up_to_the_end_of_the_first_picture() -> None:
    """Further pictures of a file, or bytes behind it, have scans of their own."""
    plain = jpeg_scans(20, 64)
    assert decode(plain + jpeg_scans(300, 64)).shape == (64, 64, 3)
    with pytest.raises(ImageError, match="scans"):
        decode(jpeg_scans(120, 64) + plain)


def test_many_scans_of_few_pixels_pass_and_of_many_do_not() -> None:
    assert decode(jpeg_scans(60, 64)).shape == (64, 64, 3)
    data = bytearray(jpeg_scans(60, 64))
    at = data.index(b"\xff\xc2") + 5
    data[at : at + 4] = (12_000).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match="scans of 144000000 pixels"):
        decode(bytes(data))


@pytest.mark.parametrize("name", ["scans.jpg", "comments.jpg", "photoshop.jpg"])
def test_the_short_way_leaves_odd_files_to_the_checks(name: str) -> None:
    data = PICTURES[name]()
    assert decode_plain(data, 1 << 40) is None
    with pytest.raises(ImageError, match=r"scans|segments"):
        decode(data)
    assert decode_plain(encoded(small(), "JPEG"), 1 << 40) is not None


@pytest.mark.parametrize("fmt", sorted({*WANTED} - {"HEIF", "SUN"}))
def test_each_wanted_format_is_read(fmt: str) -> None:
    image = small()
    data = encoded(image, fmt, **({"lossless": True} if fmt == "WEBP" else {}))
    assert decode(data).shape == (64, 64, 3)
    assert open_image(data).format in (fmt, "BMP" if fmt == "DIB" else fmt)


def test_a_format_is_asked_only_where_it_is_wanted() -> None:
    """A plugin that somebody registers later is not asked either."""
    image = Image.new("RGB", (4, 4))
    try:
        Image.register_open("NEW", lambda file, name: image, lambda prefix: prefix[:3] == b"new")
        Image.register_extension("NEW", ".new")
        with pytest.raises(ImageError, match="known format"):
            decode(b"new picture")
        assert ".new" not in image_extensions()
    finally:
        Image.OPEN.pop("NEW", None)
        Image.ID.remove("NEW")
        Image.EXTENSION.pop(".new", None)
    wanted = {".jpg", ".jpeg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".ppm"}
    assert wanted <= image_extensions()
    unwanted = {".eps", ".ps", ".iim", ".ico", ".icns", ".psd", ".blp", ".dds", ".fits", ".qoi"}
    assert unwanted.isdisjoint(image_extensions())
