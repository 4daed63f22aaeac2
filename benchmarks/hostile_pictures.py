"""Pictures that ask for a process, for minutes, or for gigabytes: small files, made here.

Each function gives the bytes of one kind; `PICTURES` names them as files of a folder. `LARGE`
names those that lie just within what featx reads: they show what one picture may cost.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
PIPE = b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 64 64\n(%pipe%id) (r) file\nshowpage\n"


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def small() -> Image.Image:
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")


def iptc(content: bytes, compression: int = 5) -> bytes:
    def record(number: int, tag: int, data: bytes) -> bytes:
        return bytes([0x1C, number, tag]) + struct.pack(">H", len(data)) + data

    side = struct.pack(">H", 64)
    head = record(3, 60, b"\1\0") + record(3, 65, b"\1") + record(3, 20, side) + record(3, 30, side)
    blocks = [content[k : k + 30_000] for k in range(0, len(content), 30_000)]
    body = b"".join(record(8, 10, block) for block in blocks)
    return head + record(3, 120, bytes([compression])) + body


def ico(content: bytes, side: int = 64) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, side, side, 0, 0, 1, 32, len(content), 22) + content


def icns(content: bytes) -> bytes:
    block = b"ic07" + struct.pack(">I", len(content) + 8) + content
    return b"icns" + struct.pack(">I", len(block) + 8) + block


def dcx(content: bytes) -> bytes:
    return struct.pack("<III", 0x3ADE68B1, 12, 0) + content


def blp(content: bytes) -> bytes:
    head = b"BLP1" + struct.pack("<IIIIII", 0, 8, 64, 64, 4, 1)
    offsets = struct.pack("<16I", 160 + 4, *[0] * 15)
    return head + offsets + struct.pack("<16I", len(content), *[0] * 15) + b"\0" * 4 + content


def psd(side: int) -> bytes:
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, side, side, 8, 3)
    return head + bytes(12) + b"\0\1" + b"\0\0" * 3000


def fits(n_bytes: int, side: int) -> bytes:
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8"]
    cards += ["NAXIS   =                    0", "EXTEND  =                    T", "END"]
    first = "".join(c.ljust(80) for c in cards).ljust(2880).encode()
    table = ["XTENSION= 'BINTABLE'", "BITPIX  =                    8"]
    table += ["NAXIS   =                    2", f"NAXIS1  = {8:20d}", f"NAXIS2  = {side:20d}"]
    table += ["ZIMAGE  =                    T", "ZCMPTYPE= 'GZIP_1  '", "ZBITPIX =  8"]
    table += ["ZNAXIS  =                    2", f"ZNAXIS1 = {side:20d}", f"ZNAXIS2 = {side:20d}"]
    second = "".join(c.ljust(80) for c in [*table, "END"]).ljust(2880).encode()
    return first + second + gzip.compress(bytes(n_bytes))


def qoi(side: int) -> bytes:
    body = b"\xfd" * (side * side // 62)
    return b"qoif" + struct.pack(">IIBB", side, side, 3, 0) + body + bytes(7) + b"\1"


def xpm(side: int) -> bytes:
    row = b'"' + b"a" * side + b'",\n'
    head = b"/* XPM */\nstatic char *x[] = {\n" + f'"{side} {side} 1 1",\n'.encode()
    return head + b'"a c #ff0000",\n' + row * side + b"};\n"


def dds(side: int) -> bytes:
    head = struct.pack("<IIIIIII", 124, 0x1007, side, side, 0, 0, 0) + bytes(44)
    pixel = struct.pack("<IIIIIIII", 32, 0x41, 0, 32, 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    return b"DDS " + head + pixel + bytes(20) + bytes(1000)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, *more: bytes, pixels: bool = True) -> bytes:
    """A black picture; `pixels` False gives a file whose pixels are missing."""
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = _zeros(side * (1 + 3 * side)) if pixels else zlib.compress(b"\0" * 999)
    return head + b"".join(more) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _zeros(n_bytes: int) -> bytes:
    packer, parts = zlib.compressobj(6), []
    for start in range(0, n_bytes, 1 << 20):
        parts.append(packer.compress(bytes(min(1 << 20, n_bytes - start))))
    return b"".join([*parts, packer.flush()])


def tags(n_tags: int, n_bytes: int) -> bytes:
    """A TIFF structure whose tags all point to the same bytes."""
    entries = b"".join(
        struct.pack("<HHII", 1000 + k, 7, n_bytes, 8 + 6 + 12 * n_tags) for k in range(n_tags)
    )
    return (
        b"II*\0" + struct.pack("<IH", 8, n_tags) + entries + struct.pack("<I", 0) + bytes(n_bytes)
    )


def segment(kind: int, data: bytes) -> bytes:
    return b"\xff" + bytes([kind]) + struct.pack(">H", len(data) + 2) + data


def jpeg_with(*segments: bytes) -> bytes:
    plain = encoded(small(), "JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def jpeg_with_exif(blob: bytes) -> bytes:
    parts = [blob[k : k + 65_000] for k in range(0, len(blob), 65_000)]
    plain = encoded(small(), "JPEG")
    at = 2 + 2 + int.from_bytes(plain[4:6], "big")  # without JFIF, Pillow reads the resolution
    return plain[:2] + b"".join(segment(0xE1, b"Exif\0\0" + p) for p in parts) + plain[at:]


def jpeg_scans(n_scans: int, side: int) -> bytes:
    """A progressive JPEG whose last scan, of 8 x 8 blocks without change, comes many times."""
    data = encoded(Image.new("L", (side, side), 99), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * n_scans + data[-2:]


def gif(*blocks: bytes) -> bytes:
    plain = encoded(small().quantize(16), "GIF")
    at = 13 + (3 << (plain[10] & 7) + 1)
    return plain[:at] + b"".join(blocks) + plain[at:]


def webp_canvas(side: int) -> bytes:
    body = b"VP8X" + struct.pack("<IB3x", 10, 2) + 2 * (side - 1).to_bytes(3, "little")
    body += b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def tiff_tile(side: int) -> bytes:
    """64 x 64 pixels in one tile of side x side."""
    content = zlib.compress(b"\0" * 1000)
    values = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    values |= {324: 8 + 2 + 12 * 10 + 4, 325: len(content)}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in sorted(values.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + body + bytes(4) + content


def tiff_of_jpeg(data: bytes, side: int) -> bytes:
    values = {256: side, 257: side, 258: 8, 259: 7, 262: 1, 273: 8 + 2 + 12 * 9 + 4, 277: 1}
    values |= {278: side, 279: len(data)}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in sorted(values.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + body + bytes(4) + data


def j2k(side: int, tile: int, components: int = 1, power: int = 4, layers: int = 1) -> bytes:
    """A JPEG 2000 codestream of headers and almost no pixels."""
    siz = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, tile, tile, 0, 0, components)
    siz += b"\7\1\1" * components
    cod = struct.pack(">BBHBBBBBB", 0, 0, layers, 0, 5, power - 2, power - 2, 0, 1)
    parts = segment(0x51, siz) + segment(0x52, cod) + segment(0x5C, b"\x40" + b"\x40" * 16)
    return (
        b"\xff\x4f" + parts + b"\xff\x90\0\x0a\0\0" + struct.pack(">IBB", 0, 0, 1) + b"\xff\x93\0"
    )


def bmp_rle(n_bytes: int, side: int) -> bytes:
    body = b"\1\0" * (n_bytes // 2)
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    start = 14 + 40 + 1024
    file = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
    return file + head + bytes(1024) + body


def tga_rle(side: int) -> bytes:
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, side, side, 24, 0x20)
    return head + b"\xff\1\2\3" * (side * side // 128 + 1)


def pcx(side: int) -> bytes:
    head = struct.pack("<BBBBHHHH", 10, 5, 1, 8, 0, 0, side - 1, side - 1) + bytes(53)
    return head + struct.pack("<BHH", 3, side, 1) + bytes(58) + b"\xff\7" * 20_000


def starts_like() -> Iterator[tuple[str, bytes]]:
    """Files that begin as formats do which Pillow knows and featx does not want."""
    begins = {
        "wmf": b"\xd7\xcd\xc6\x9a\0\0",
        "emf": b"\1\0\0\0" + bytes(36) + b" EMF",
        "h5": b"\x89HDF\r\n\x1a\n",
        "grib": b"GRIB\0\0\0\1",
        "bufr": b"BUFR",
        "mpg": b"\0\0\1\xb3" + bytes(8),
        "fli": b"\0\0\0\0\x11\xaf",
        "ole": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "pcd": bytes(2048) + b"PCD_IPI",
        "gbr": b"\0\0\0\x1c\0\0\0\2",
        "ftex": b"FTEX",
        "msp": b"DanM",
        "xv": b"P7 332 ",
        "area": bytes(4) + b"\0\0\0\4",
        "pxr": b"\x80\xe8\0\0",
        "cur": b"\0\0\2\0\1\0",
        "im": b"Image type: RGB image\r\nFile size (no of images): 1\r\n",
        "pdf": b"%PDF-1.7\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "spider": struct.pack(">26f", *[64.0] * 26),
    }
    for name, start in begins.items():
        yield f"{name}.jpg", start + bytes(1000)


def noise(n_bytes: int) -> bytes:
    return np.random.default_rng(0).integers(0, 256, n_bytes, np.uint8).tobytes()


PICTURES: dict[str, Callable[[], bytes]] = {
    # Another program, or whatever lies within
    "iptc-eps.jpg": lambda: iptc(EPS),
    "iptc-pipe.jpg": lambda: iptc(PIPE),
    "iptc-png.jpg": lambda: iptc(png(13_000)),
    "iptc-iptc.jpg": lambda: iptc(iptc(iptc(EPS))),
    "eps.jpg": lambda: EPS,
    "pipe.png": lambda: PIPE,
    "ico-eps.png": lambda: ico(EPS),
    "ico-png.png": lambda: ico(png(13_300)),
    "icns-png.png": lambda: icns(png(13_300)),
    "icns-jp2.png": lambda: icns(j2k(13_000, 13_000)),
    "dcx-pcx.png": lambda: dcx(pcx(60_000)),
    "blp-jpeg.png": lambda: blp(encoded(small(), "JPEG")),
    "psd.png": lambda: psd(13_000),
    "fits.png": lambda: fits(4_000_000, 1000),
    "qoi.png": lambda: qoi(8000),
    "xpm.png": lambda: xpm(3000),
    "dds.png": lambda: dds(12_000),
    # Time
    "scans.jpg": lambda: jpeg_scans(1764, 3000),
    "scans-large.jpg": lambda: jpeg_scans(90, 13_000),
    "stray.jpg": lambda: jpeg_with(b"\0" * 20_000_000),
    "fill.jpg": lambda: jpeg_with(b"\xff" * 20_000_000),
    "comments.jpg": lambda: jpeg_with(segment(0xFE, b"") * 5_000_000),
    "photoshop.jpg": lambda: jpeg_with(
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000) * 600
    ),
    "chunks.png": lambda: png(64, chunk(b"teSt", b"") * 2_000_000),
    "chunks-after.png": lambda: png(64)[:-12] + chunk(b"IDAT", b"") * 2_000_000,
    "blocks.gif": lambda: gif(b"!\xfe" + b"\1a" * 10_000_000 + b"\0"),
    "extensions.gif": lambda: gif(b"!\xf0\0" * 5_000_000),
    "comment.ppm": lambda: b"P6 #" + b"a" * 30_000_000 + b"\n64 64 255\n" + bytes(64 * 64 * 3),
    "text.ppm": lambda: b"P3 5000 5000 255\n" + b"1 " * 75_000_000,
    "depth.pgm": lambda: b"P5 6000 6000 4095\n" + bytes(72_000_000),
    "rle.bmp": lambda: bmp_rle(40_000_000, 8000),
    "boxes.jp2": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08free" * 3_000_000 + j2k(64, 64),
    "markers.j2k": lambda: j2k(64, 64)[:-15] + segment(0x64, b"") * 5_000_000 + j2k(64, 64)[-15:],
    "jpeg-scans.tif": lambda: tiff_of_jpeg(jpeg_scans(1764, 1000), 1000),
    # Memory
    "header.png": lambda: png(60_000, pixels=False),
    "ztxt.png": lambda: png(64, chunk(b"zTXt", b"Comment\0\0" + _zeros(500_000_000))),
    "itxt.png": lambda: png(64, chunk(b"iTXt", b"a\0\1\0\0\0" + _zeros(500_000_000))),
    "iccp.png": lambda: png(64, chunk(b"iCCP", b"icc\0\0" + _zeros(500_000_000))),
    "texts.png": lambda: png(64, chunk(b"zTXt", b"Comment\0\0" + _zeros(1_000_000)) * 5000),
    "exif.png": lambda: png(64, chunk(b"eXIf", tags(40_000, 500_000))),
    "profile.png": lambda: png(
        64,
        chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n500000\n" + tags(20_000, 250_000).hex().encode()),
        ),
    ),
    "exif.jpg": lambda: jpeg_with_exif(tags(5000, 1_000_000)),
    "mpf.jpg": lambda: jpeg_with(segment(0xE2, b"MPF\0" + tags(2500, 34_000))),
    "tags.tif": lambda: tags(60_000, 2_000_000),
    "tile.tif": lambda: tiff_tile(40_000),
    "canvas.webp": lambda: webp_canvas(16_000_000),
    "canvas-16k.webp": lambda: webp_canvas(16_384),
    "canvas.gif": lambda: b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(99),
    "frame.gif": lambda: (
        b"GIF89a"
        + struct.pack("<HHBBB", 64, 64, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
        + b"\2\2\x4c\1\0;"
    ),
    "tiles.j2k": lambda: j2k(65_000, 260),
    "components.j2k": lambda: j2k(64, 64, components=16_000),
    "blocks.j2k": lambda: j2k(9900, 9900, power=2),
    "layers.j2k": lambda: j2k(9900, 9900, layers=65_535),
    "side.tga": lambda: tga_rle(64)[:12] + b"\xff\xff\xff\xff" + tga_rle(64)[16:],
    "side.pcx": lambda: pcx(60_000),
    # Not pictures at all
    "empty.jpg": lambda: b"",
    "noise.jpg": lambda: noise(100_000),
    "noise-jpeg.jpg": lambda: encoded(small(), "JPEG")[:300] + noise(100_000),
    **{name: (lambda data=data: data) for name, data in starts_like()},
}

LARGE: dict[str, Callable[[], bytes]] = {
    "large.png": lambda: png(13_300),
    "large.jpg": lambda: encoded(Image.new("RGB", (13_300, 13_300), "red"), "JPEG"),
    "large-progressive.jpg": lambda: encoded(
        Image.new("RGB", (13_300, 13_300), "red"), "JPEG", progressive=True
    ),
    "large.tga": lambda: tga_rle(13_300),
    "large.webp": lambda: encoded(Image.new("RGB", (13_300, 13_300)), "WEBP", lossless=True),
    "large.gif": lambda: encoded(Image.new("P", (13_300, 13_300)), "GIF"),
    "large.tif": lambda: encoded(
        Image.new("RGB", (13_300, 13_300)), "TIFF", compression="tiff_deflate"
    ),
    "large.j2k": lambda: encoded(Image.new("L", (9900, 9900)), "JPEG2000"),
    "large.avif": lambda: encoded(Image.new("RGB", (13_300, 13_300)), "AVIF", speed=10),
}
"""Just within the bounds: what one picture may cost at most."""
