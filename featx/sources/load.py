"""From what the user names to a manifest: which kind of source it is, and reading it again."""

from __future__ import annotations

import os
import stat as stat_module
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from featx.columns import Prefixed, Text
from featx.errors import GONE, ImageError, SourceError, UnreachableError, nearest
from featx.images import image_extensions
from featx.images.pages import split_page
from featx.items import Manifest, Source, SourceOptions, Stamp
from featx.slices import WHOLE, Slice, SliceCounter, listed
from featx.sources.addresses import bare, may_fetch
from featx.sources.containers import Container
from featx.sources.folder import (
    FirstFolders,
    Listing,
    PassedOver,
    extra_notice,
    folder_manifest,
    labels_and_split,
    own_ignored,
    scan_folder,
)
from featx.sources.parquet import from_parquet, holds_images
from featx.sources.paths import LIST, from_list, from_table
from featx.sources.patterns import fixed_part, list_remote, matching, name_on_disk
from featx.sources.places import ReadFiles, parent, stamp_of
from featx.sources.remote import is_url
from featx.sources.saved import from_saved, is_saved
from featx.sources.table import PARQUET, TABLES, read_table
from featx.sources.tar import from_tars

TARS = (".tar",)
_COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def from_file(place: str, options: SourceOptions) -> Manifest:
    """Take a table, a Parquet file, a tar, or one picture.

    Raises
    ------
    SourceError
        If it is none of them.
    """
    lower, dealing = bare(place).lower(), SliceCounter(options.slice_)
    if lower.endswith(TABLES):
        return from_table(place, read_table(place, dealing), dealing, options.missing)
    if lower.endswith(PARQUET):
        stamp = stamp_of(place)
        if not holds_images(place, stamp):
            return from_table(place, read_table(place, dealing), dealing, options.missing)
        return from_parquet(place, _base(place), [_container(place, stamp)], options)
    if lower.endswith((*TARS, *_COMPRESSED)):
        return from_tars(place, _base(place), [_container(place, Stamp())], options)
    if lower.endswith(tuple(image_extensions())):
        return from_list([place], options.slice_)
    raise SourceError(
        f"{place} is neither a folder nor a table ({', '.join((*TABLES, *PARQUET))}) nor a tar nor "
        "a picture by its name; give the folder that holds the images, or save the table as CSV"
    )


def from_folder(root: Path, options: SourceOptions) -> Manifest:
    """Take the images of a folder, or the tars or Parquet files in it, or a saved data set.

    Raises
    ------
    SourceError
        If it holds nothing of the kind.
    """
    if is_saved(root):
        return from_saved(root, options)
    dealing = SliceCounter(options.slice_)
    found = scan_folder(root, dealing)
    if found.anyones:
        return folder_manifest(root, found, dealing)
    folder = os.fspath(root)
    containers = [Container(f"{folder.rstrip('/')}/{name}", name) for name in found.containers]
    ignored = found.ignored
    ignored.subtract(Path(container.name).suffix.lower() for container in containers)
    made = _containers(folder, f"{folder.rstrip('/')}/", containers, options, ignored)
    if made is not None:
        return made
    if not dealing.names:
        raise _nothing(folder, +found.ignored)
    return folder_manifest(root, found, dealing)


def from_url(url: str, options: SourceOptions) -> Manifest:
    """Take what lies at a URL: a table, a container, a picture, or what a folder could hold.

    Raises
    ------
    SourceError
        If it cannot be read, or holds nothing of the kind.
    """
    extensions = image_extensions()
    files = (*TABLES, *PARQUET, *TARS, *_COMPRESSED, *extensions)
    if bare(url).lower().endswith(files):
        return from_file(url, options)
    base = url.rstrip("/") + "/"
    images, ignored, containers = Listing(), PassedOver(), []
    dealing = SliceCounter(options.slice_)
    folders = FirstFolders()
    encoded: dict[str, str] = {}
    for address, stamp in list_remote(url):
        name = name_on_disk(url, address)
        hidden = any(part.startswith(".") for part in name.split("/"))
        if not hidden and os.path.splitext(name)[1].lower() in extensions:  # noqa: PTH122
            folders.see(name)
            if dealing.takes(name):
                images.add(name, stamp)
                if name != address:
                    encoded[name] = address
        elif not hidden and name.lower().endswith((*TARS, *PARQUET)):
            containers.append(Container(base + address, name, stamp))
        else:
            ignored.take(name, hidden=hidden)
    ids, stamps = images.sorted()
    if not dealing.names:
        made = _containers(url, base, containers, options, ignored)
        if made is not None:
            return made
        raise _nothing(url, ignored)
    for container in containers:
        ignored.take(container.name)
    addresses = Text.of(encoded.get(name, name) for name in ids) if encoded else ids
    places = Prefixed(base, addresses)
    labels, split = labels_and_split(ids, folders)
    return Manifest(
        name=url,
        ids=ids,
        paths=places,
        read=ReadFiles(places, stamps=stamps),
        labels=labels,
        split=split,
        stamps=stamps if np.any(stamps) else None,
        ignored_by_extension=dict(own_ignored(ignored, options.slice_)),
        dealt=dealing.dealt,
        notes=folders.notes(),
    )


def from_pattern(text: str, options: SourceOptions) -> Manifest:
    """Take the tars, the Parquet files or the images that a pattern stands for.

    Raises
    ------
    SourceError
        If nothing matches, or files of several kinds do.
    """
    places = matching(text)
    base = fixed_part(text)
    if all(place.lower().endswith((*TARS, *PARQUET)) for place in places):
        containers = [Container(place, place.removeprefix(base)) for place in places]
        made = _containers(text, base, containers, options, Counter())
        if made is not None:
            return made
    if _all_images(places):
        return from_list(places, options.slice_)
    raise SourceError(
        f"{text} matches files that are neither all tars, all Parquet nor all images, the first "
        f"{places[0]}"
    )


def _all_images(places: Iterable[str]) -> bool:
    extensions = image_extensions()
    return all(Path(place).suffix.lower() in extensions for place in places)


def _containers(
    name: str,
    base: str,
    containers: Sequence[Container],
    options: SourceOptions,
    ignored: Counter[str],
) -> Manifest | None:
    """Items of containers of one kind; None if there are no containers."""
    ignored = +own_ignored(ignored, options.slice_)
    tars = [container for container in containers if container.name.lower().endswith(TARS)]
    others = [container for container in containers if not container.name.lower().endswith(TARS)]
    if tars and others:
        raise SourceError(
            f"{name} holds both tars ({tars[0].name}) and Parquet ({others[0].name}); "
            "name those to be read, as in FOLDER/*.tar"
        )
    if tars:
        return from_tars(name, base, tars, options, ignored)
    return from_parquet(name, base, others, options, ignored) if others else None


def _nothing(name: str, ignored: Counter[str]) -> SourceError:
    others = f"{ignored.total()} other files"
    if ignored:
        others += f": {listed([f'{kind} {n}' for kind, n in ignored.most_common()], 8)}"
    extra = extra_notice(ignored)
    return SourceError(
        f"{name} holds no images ({others}); "
        "featx looks for files with an image extension such as .jpg or .png, for .tar and for "
        f".parquet{'; ' + extra if extra else ''}"
    )


def _base(place: str) -> str:
    """The folder of a file as it is written before ids, with a slash at its end."""
    if is_url(place):
        return parent(place) + "/"
    return place[: place.rfind("/") + 1]


def _container(place: str, stamp: Stamp) -> Container:
    name = bare(place)
    return Container(place, name[name.rfind("/") + 1 :], stamp)


_ASK = "a cache names it, and what it names is fetched with --fetch only"


def read_again(
    source: str,
    ids: Sequence[str],
    paths: Sequence[str],
    slice_: Slice = WHOLE,
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
    slice_
        Of the source, which the cache holds; no other is listed.
    missing
        Texts that mean that a field of its table is empty.

    Returns
    -------
    read : takes a row, gives the bytes of its whole file, whichever page the row is
        Raises `SourceError` or `ImageError` where the image is no longer there.
    """
    files, follow = ReadFiles(paths), may_fetch()
    table = is_url(source) and bare(source).lower().endswith((*TABLES, *PARQUET))
    named = ReadFiles(paths, named_below=parent(source) if table else "")

    @cache
    def listed() -> tuple[Manifest, dict[str, int]]:
        if not follow and is_url(source):
            raise SourceError(f"{source} was not fetched; {_ASK}")
        manifest = load_manifest(source, slice_, missing=missing)
        return manifest, {name: item for item, name in enumerate(manifest.ids)}

    def read(row: int) -> bytes:
        if not follow and is_url(paths[row]):
            raise ImageError(f"{paths[row]} was not fetched; {_ASK}")
        if source == LIST or _is_own_file(paths[row]):
            return (files if is_url(ids[row]) else named)(row)[0]
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


def load_manifest(
    source: Source, slice_: Slice = WHOLE, *, missing: str | Sequence[str] = ()
) -> Manifest:
    """List the images of a source, or a slice of them, in a stable order.

    Parameters
    ----------
    source
        A folder (its first level of folders are the classes), a CSV or Parquet table with a
        column ``path``, Parquet with the images in it, tar files, a data set that Hugging Face's
        `datasets` saved, a folder of such files, a pattern (``train-{000..099}.tar``, ``*.tar``),
        any of them behind a URL, one picture, a list of paths, pictures of Pillow or arrays, or the
        name of a built-in set (``elpv``, ``digits``). ``docs/sources.md`` describes each.
    slice_
        Tars and Parquet files with images are dealt out as whole files, and those of others are not
        opened; a saved data set in stretches of rows; everything else by a hash of each id.
    missing
        Texts that mean that a field of a table is missing; only an empty one does without.

    Raises
    ------
    SourceError
        If there is no such source, or nothing in it that could be an image.
    MissingExtraError
        If it needs a package that is not installed.

    Examples
    --------
    >>> len(load_manifest("digits"))
    1797
    """
    from featx.sources.builtin import BUILT_IN
    from featx.sources.paths import deal_items, from_list
    from featx.sources.patterns import is_pattern
    from featx.sources.remote import is_url

    if not isinstance(source, (str, os.PathLike)):
        return from_list(source, slice_)
    text, path = os.fspath(source), Path(source)
    if not text:  # which pathlib takes for the folder one is in
        raise SourceError("the source is an empty text; write . for this folder")
    options = SourceOptions(slice_, (missing,) if isinstance(missing, str) else tuple(missing))
    if text in BUILT_IN:
        if path.exists():
            raise SourceError(f"{text!r} is a built-in set and also a path here; write ./{text}")
        return deal_items(BUILT_IN[text](), slice_)
    if text.startswith("file://"):
        return load_manifest(text.removeprefix("file://"), slice_, missing=missing)
    if is_url(text):
        return from_pattern(text, options) if is_pattern(text) else from_url(text, options)
    mode = _mode_of(path)
    if stat_module.S_ISDIR(mode):
        return from_folder(path, options)
    if mode:
        if not stat_module.S_ISREG(mode):
            raise SourceError(f"{text} is a pipe or a device; write what it gives to a file first")
        return from_file(text, options)
    if is_pattern(text):
        return from_pattern(text, options)
    raise SourceError(
        f"no such folder, table or built-in set: {text}{nearest(text, BUILT_IN)} "
        f"(built in: {', '.join(BUILT_IN)})"
    )


def _mode_of(path: Path) -> int:
    """Kind of what lies at a path, 0 where nothing does."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in GONE:
            return 0
        raise UnreachableError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:  # a zero byte
        return 0
