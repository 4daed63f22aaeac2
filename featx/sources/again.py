"""Read the images of a cache once more, from the source that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from featx.errors import ImageError, SourceError
from featx.images.pages import split_page
from featx.manifest import Manifest, load_manifest
from featx.portion import WHOLE, Portion
from featx.sources.addresses import may_fetch
from featx.sources.files import LIST
from featx.sources.kinds import TARS
from featx.sources.places import ReadFiles
from featx.sources.remote import is_url
from featx.sources.tables import PARQUET

_ASK = "a cache names it, and what it names is fetched with --fetch only"


def read_again(
    source: str,
    ids: Sequence[str],
    paths: Sequence[str],
    portion: Portion = WHOLE,
    missing: Sequence[str] = (),
) -> Callable[[int], bytes]:
    """Give what reads the image of a row.

    A path that is a file is read, and one that is a URL where the user has asked for that
    (`featx.sources.addresses.fetching`): a cache may come from somebody else. Rows of a container
    or of a built-in set are found by their id, in the source listed again when the first of them is
    asked for.

    Parameters
    ----------
    source
        What the cache calls its source.
    ids, paths
        Of the rows of the cache.
    portion
        Of the source, which the cache holds; no other is listed.
    missing
        Texts that mean that a field of its table is empty.

    Returns
    -------
    read : takes a row, gives the bytes of its whole file, whichever page the row is
        Raises `SourceError` or `ImageError` where the image is no longer there.
    """
    files, follow = ReadFiles(paths), may_fetch()

    @cache
    def listed() -> tuple[Manifest, dict[str, int]]:
        if not follow and is_url(source):
            raise SourceError(f"{source} was not fetched; {_ASK}")
        manifest = load_manifest(source, portion, missing=missing)
        return manifest, {name: item for item, name in enumerate(manifest.ids)}

    def read(row: int) -> bytes:
        if not follow and is_url(paths[row]):
            raise ImageError(f"{paths[row]} was not fetched; {_ASK}")
        if source == LIST or _is_own_file(paths[row]):
            return files(row)[0]
        manifest, items = listed()
        name = ids[row] if ids[row] in items else split_page(ids[row])[0]
        if name not in items:
            raise ImageError(f"{name} is no longer in {source}")
        return manifest.read(items[name])[0]

    return read


def _is_own_file(path: str) -> bool:
    if not is_url(path):
        return Path(path).is_file()
    folders = path.lower().split("/")[:-1]
    return not any(name.endswith((*TARS, *PARQUET)) for name in folders)
