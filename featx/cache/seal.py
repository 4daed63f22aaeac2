"""The digest of a whole file, in the 512 bytes before HDF5 begins.

HDF5 leaves this room, the user block, to whoever writes the file, and looks for its own signature
behind it; so h5py opens a sealed file like any other. The block is text, and ``head -c 512 FILE``
prints it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO

BLOCK_BYTES = 512
"""Size of the block; the digest is that of every byte behind it."""

_START = b"featx-cache digest blake2b-256 "
_HDF5 = b"\x89HDF\r\n\x1a\n"


def seal(file: IO[bytes]) -> None:
    """Write the block of a file that is complete but for it."""
    block = _block(file)
    file.seek(0)
    file.write(block)


def seal_problem(path: Path) -> str | None:
    """Compare the bytes of a file with the digest that it carries.

    Returns
    -------
    problem : None where every byte is as it was written, else what is wrong

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        found = file.read(BLOCK_BYTES)
        if found == _block(file):
            return None
    return "its bytes are not those that were written: the digest of the whole file differs"


def is_sealed(path: Path) -> bool:
    """Tell whether a file has a block; those of older versions begin with HDF5 itself."""
    with path.open("rb") as file:
        return not file.read(len(_HDF5)) == _HDF5


def _block(file: IO[bytes]) -> bytes:
    file.seek(BLOCK_BYTES)
    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()  # type: ignore[arg-type]
    text = _START + digest.encode() + b"\n"
    return text.ljust(BLOCK_BYTES - 1) + b"\n"
