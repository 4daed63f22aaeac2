"""Which kind of source a file, a folder, a URL or a pattern is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from featx.errors import SourceError
from featx.images import image_extensions
from featx.manifest import Manifest, SourceOptions, Stamp
from featx.portion import Dealing, listed
from featx.sources.classfolders import FirstFolders, labels_and_split
from featx.sources.files import from_list, from_table
from featx.sources.folder import (
    Listing,
    folder_manifest,
    own_ignored,
    scan_folder,
)
from featx.sources.listing import list_remote
from featx.sources.parquet import from_parquet, holds_images
from featx.sources.passed import PassedOver, extra_notice
from featx.sources.patterns import fixed_part, matching
from featx.sources.places import ReadFiles, parent, stamp_of
from featx.sources.remote import is_url
from featx.sources.saved import from_saved, is_saved
from featx.sources.shards import Shard
from featx.sources.tables import PARQUET, TABLES, read_table
from featx.sources.tar import from_tars
from featx.sources.text import Prefixed

TARS = (".tar",)
_COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def from_file(place: str, options: SourceOptions) -> Manifest:
    """Take a table, a Parquet file or a tar.

    Raises
    ------
    SourceError
        If it is none of them.
    """
    lower, dealing = place.lower(), Dealing(options.portion)
    if lower.endswith(TABLES):
        return from_table(place, read_table(place, dealing), dealing, options.missing)
    if lower.endswith(PARQUET):
        stamp = stamp_of(place)
        if not holds_images(place, stamp):
            return from_table(place, read_table(place, dealing), dealing, options.missing)
        return from_parquet(place, _base(place), [_shard(place, stamp)], options)
    if lower.endswith((*TARS, *_COMPRESSED)):
        return from_tars(place, _base(place), [_shard(place, Stamp())], options)
    raise SourceError(
        f"{place} is neither a folder nor a table ({', '.join((*TABLES, *PARQUET))}) nor a tar; "
        "give the folder that holds the images"
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
    dealing = Dealing(options.portion)
    found = scan_folder(root, dealing)
    if found.anyones:
        return folder_manifest(root, found, dealing)
    folder = os.fspath(root)
    shards = [Shard(f"{folder.rstrip('/')}/{name}", name) for name in found.containers]
    ignored = found.ignored
    ignored.subtract(Path(shard.name).suffix.lower() for shard in shards)
    made = _containers(folder, f"{folder.rstrip('/')}/", shards, options, ignored)
    if made is not None:
        return made
    if not dealing.names:
        raise _nothing(folder, +found.ignored)
    return folder_manifest(root, found, dealing)


def from_url(url: str, options: SourceOptions) -> Manifest:
    """Take what lies at a URL: a table, a container, or what a local folder could hold.

    Raises
    ------
    SourceError
        If it cannot be read, or holds nothing of the kind.
    """
    if url.lower().endswith((*TABLES, *PARQUET, *TARS, *_COMPRESSED)):
        return from_file(url, options)
    base = url.rstrip("/") + "/"
    extensions = image_extensions()
    images, shards, ignored, dealing = Listing(), [], PassedOver(), Dealing(options.portion)
    folders = FirstFolders()
    for name, stamp in list_remote(url):
        hidden = any(part.startswith(".") for part in name.split("/"))
        if not hidden and os.path.splitext(name)[1].lower() in extensions:  # noqa: PTH122
            folders.see(name)
            if dealing.takes(name):
                images.add(name, stamp)
        elif not hidden and name.lower().endswith((*TARS, *PARQUET)):
            shards.append(Shard(base + name, name, stamp))
        else:
            ignored.take(name, hidden=hidden)
    ids, stamps = images.sorted()
    if not dealing.names:
        made = _containers(url, base, shards, options, ignored)
        if made is not None:
            return made
        raise _nothing(url, ignored)
    for shard in shards:
        ignored.take(shard.name)
    places = Prefixed(base, ids)
    labels, split = labels_and_split(ids, folders)
    return Manifest(
        name=url,
        ids=ids,
        paths=places,
        read=ReadFiles(places, stamps=stamps),
        labels=labels,
        split=split,
        stamps=stamps if np.any(stamps) else None,
        ignored_by_extension=dict(own_ignored(ignored, options.portion)),
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
        shards = [Shard(place, place.removeprefix(base)) for place in places]
        made = _containers(text, base, shards, options, Counter())
        if made is not None:
            return made
    if _all_images(places):
        return from_list(places, options.portion)
    raise SourceError(
        f"{text} matches files that are neither all tars, all Parquet nor all images, the first "
        f"{places[0]}"
    )


def _all_images(places: Iterable[str]) -> bool:
    extensions = image_extensions()
    return all(Path(place).suffix.lower() in extensions for place in places)


def _containers(
    name: str, base: str, shards: Sequence[Shard], options: SourceOptions, ignored: Counter[str]
) -> Manifest | None:
    """Items of containers of one kind; None if there are no containers."""
    ignored = +own_ignored(ignored, options.portion)
    tars = [shard for shard in shards if shard.name.lower().endswith(TARS)]
    others = [shard for shard in shards if not shard.name.lower().endswith(TARS)]
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


def _shard(place: str, stamp: Stamp) -> Shard:
    return Shard(place, place[place.rfind("/") + 1 :], stamp)
