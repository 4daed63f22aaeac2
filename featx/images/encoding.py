"""Pictures that are objects, of Pillow or numpy, as the files that hold exactly what they hold.

So there is one decode policy: an object is read as the file would be that it was opened from or
could be saved to.
"""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageFile, ImageOps

from featx.errors import ImageError
from featx.images.decoding import decode
from featx.images.formats import open_image
from featx.images.policy import DEFAULT_POLICY, DecodePolicy, Pixels, Samples, refuse_bands

_lock = threading.Lock()  # an object of Pillow that is loaded by two threads at once is damaged
_PHOTOMETRIC, _BITS, _DEEP = 262, 258, ("I", "F")
_AS_TIFF = ("CMYK", "YCbCr", "LAB", "F")
_SAME = {mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}
_KNOWN = _SAME | {"La": "LA", "PA": "RGBA", "RGBa": "RGBA", "RGBX": "RGB", "HSV": "RGB"}
"""By the mode of a picture the mode of the PNG that holds it."""


def is_picture(value: object) -> bool:
    """True if a value is a picture of Pillow, or an array (not of text)."""
    if isinstance(value, Image.Image):
        return True
    kind = getattr(getattr(value, "dtype", None), "kind", "O")
    return hasattr(value, "__array__") and kind in "biufc"


def pixels_of(picture: object, policy: DecodePolicy = DEFAULT_POLICY) -> Pixels:
    """Turn a picture of Pillow or an array into pixels, by the policy that files go through.

    Parameters
    ----------
    picture
        A picture of any mode of Pillow, or an array of shape (height, width) or (height, width, 1,
        3 or 4): integers from 0 to the top of their type, floating point from 0 to 1; a fourth
        band is alpha.

    Returns
    -------
    pixels : uint8, shape (height, width, 3), RGB

    Raises
    ------
    ImageError
        If it cannot be read so; the message is the reason.

    Examples
    --------
    >>> pixels_of(np.full((2, 2), 65535, np.uint16))[0, 0].tolist()
    [255, 255, 255]
    """
    return decode(file_of(picture), policy)


def file_of(picture: object) -> bytes:
    """Give the bytes of a file that holds a picture of Pillow or an array, and nothing else.

    Raises
    ------
    ImageError
        If it is of a kind that is not read.
    """
    if not isinstance(picture, Image.Image):
        return _file_of_array(np.asarray(picture))
    with _lock:
        try:
            return _own_file(picture) or _file_of_image(picture)
        except ImageError:
            raise
        except Exception as error:  # whatever Pillow says of a file that is cut off
            raise ImageError(f"cannot be decoded: {error}") from None


def _own_file(image: Image.Image) -> bytes | None:
    """Bytes of the file that a picture was opened from, if it is still as it was opened.

    They hold more than Pillow makes of them: 16 bits of a colour, TIFFs that it reads wrongly.
    """
    file = getattr(image, "fp", None)
    if not isinstance(image, ImageFile.ImageFile) or file is None or not image.tile:
        return None
    if image.tell() != 0 or getattr(file, "closed", False):
        return None
    at = file.tell()
    file.seek(0)
    data: bytes = file.read()
    file.seek(at)
    try:
        with open_image(data) as again:  # a draft, or a file object that has moved on
            same = (again.size, again.mode, again.format) == (image.size, image.mode, image.format)
    except Exception:  # nothing is lost: featx reads such a TIFF, and has Pillow's pixels of others
        return data if image.format == "TIFF" else None
    return data if same else None


def _file_of_image(image: Image.Image) -> bytes:
    _require_sound(image)
    image.load()
    turned = ImageOps.exif_transpose(image)
    mode = turned.mode
    if mode.startswith("I;16") or mode in _DEEP:
        values = np.asarray(turned)
        return _write(values.astype(values.dtype.newbyteorder("=")))
    if mode in _AS_TIFF:
        return _save(turned, "TIFF")
    if mode not in _KNOWN:
        raise ImageError(f"a picture of mode {mode}, which is not read")
    return _save(turned if _KNOWN[mode] == mode else turned.convert(_KNOWN[mode]), "PNG")


def _require_sound(image: Image.Image) -> None:
    """Refuse a TIFF that Pillow has decoded already, and wrongly."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return
    bits = max(tags.get(_BITS, (1,)))
    is_deep = image.mode in _DEEP or image.mode.startswith("I;16")
    if bits > 8 and (not is_deep or tags.get(_PHOTOMETRIC) == 0):
        raise ImageError(
            f"a TIFF of {bits} bits that Pillow has loaded, and reads wrongly; give its path"
        )


def _save(image: Image.Image, fmt: str) -> bytes:
    file = io.BytesIO()
    clear = image.info.get("transparency")
    image.info = (
        {} if clear is None else {"transparency": clear}
    )  # no profile, no Exif: the picture has been turned
    image.save(file, fmt, **({"compress_level": 0} if fmt == "PNG" else {}))
    return file.getvalue()


def _file_of_array(values: Samples) -> bytes:
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not values.size or values.dtype.kind not in "biuf":
        raise ImageError(
            "expected numbers of shape (height, width) or (height, width, 1, 3 or 4), got "
            f"{values.dtype} of shape {values.shape}"
        )
    bands = values.shape[2]
    if bands not in (1, 3, 4):
        first = values.shape[0] in (1, 3, 4) and bands > 4
        reason = refuse_bands(bands)
        raise ImageError(f"{reason}; give the bands as the last axis") if first else reason
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    return _write(values[..., 0] if bands == 1 else values)


def _write(values: Samples) -> bytes:
    file = io.BytesIO()
    options: dict[str, Any] = {"photometric": "minisblack"}
    if values.ndim == 3:
        options = {"photometric": "rgb", "planarconfig": "contig"}
        if values.shape[2] == 4:
            options["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()
