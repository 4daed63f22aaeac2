"""Every error that featx raises on purpose.

::

    FeatxError
    ├── OptionError (TypeError, ValueError)   an option of a wrong type, or an unknown one
    ├── SourceError (ValueError)          the images or their table
    │   └── UnreachableError                  storage that gives no answer, or changes meanwhile
    ├── ImageError (ValueError)           one image that cannot become pixels
    │   └── UnreadableError                   its file cannot be read now; the row it has is kept
    ├── CacheError (OSError)              the cache and the files beside it
    │   ├── CacheFormatError (ValueError)     not a cache, damaged, or not to be trusted
    │   ├── CacheMismatchError (ValueError)   written with another fingerprint
    │   ├── CacheLockedError                  another process writes it
    │   └── NoSpaceError                      the disk is too small for what is to be written
    ├── BackboneError (ValueError)        the network
    │   ├── UnknownBackboneError (LookupError)
    │   ├── UnknownLayerError (LookupError)
    │   └── WeightsError                      missing, damaged, or of another network
    ├── DeviceError (RuntimeError)        the device or precision asked for is not there
    ├── ExtractError (RuntimeError)       the run as a whole cannot go on
    ├── FitError (ValueError)             a head cannot be fitted or measured on these rows
    ├── ModelError (ValueError)           a model file
    │   └── DriftError                        features are no longer those of the training
    └── MissingExtraError (ImportError)   an optional dependency is not installed

The shell turns each into one line on stderr and exit status 1.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO)
"""With these errors a file is not there, or is not a file; any other may pass."""


class FeatxError(Exception):
    """An error that the user can act on; the message is one line."""


class OptionError(FeatxError, TypeError, ValueError):
    """An option has a wrong type, or does not exist."""


class SourceError(FeatxError, ValueError):
    """The source of images cannot be read as asked."""


class UnreachableError(SourceError):
    """Storage gives no answer, or another one than a moment ago; nothing is known of the rest."""


class ImageError(FeatxError, ValueError):
    """One image cannot become pixels; the message is the reason kept in ``failed``."""

    @property
    def reason(self) -> str:
        """The message."""
        return str(self)


class UnreadableError(ImageError):
    """The file of an image cannot be read now, which may pass: nothing is known of its content."""

    @property
    def reason(self) -> str:
        """The message, marked as one that may pass."""
        return PassingReason(self)


class PassingReason(str):
    """Why an image could not be read, where that may pass; a row that it has is kept."""


class CacheError(FeatxError, OSError):
    """A cache cannot be read or written."""


class CacheFormatError(CacheError, ValueError):
    """A file is not a cache, is damaged, or holds what a cache must not hold."""


class CacheMismatchError(CacheError, ValueError):
    """A cache was written with another fingerprint."""


class CacheLockedError(CacheError):
    """Another process is writing the cache."""


class NoSpaceError(CacheError):
    """The disk has less space than the cache needs."""


class BackboneError(FeatxError, ValueError):
    """A network cannot be built or used as asked."""


class UnknownBackboneError(BackboneError, LookupError):
    """No network has this name."""


class UnknownLayerError(BackboneError, LookupError):
    """The network has no such layer, or never runs it."""


class WeightsError(BackboneError):
    """Weights are missing, damaged, unsafe, or of another network."""


class DeviceError(FeatxError, RuntimeError):
    """The device, or the precision on it, is not there."""


class ExtractError(FeatxError, RuntimeError):
    """Extraction as a whole cannot go on; `failures` name each image that failed, and why."""

    failures: dict[str, str] | None = None


class FitError(FeatxError, ValueError):
    """A head cannot be fitted or measured on these rows."""


class ModelError(FeatxError, ValueError):
    """A model file cannot be read or does not fit its input."""


class DriftError(ModelError):
    """Features are no longer those that the model was trained on."""


class MissingExtraError(FeatxError, ImportError):
    """An optional dependency is not installed."""


def nearest(name: str, known: Iterable[str], n: int = 5) -> str:
    """Name the closest of ``known`` as a clause for an error message.

    Examples
    --------
    >>> nearest("svn", ["svm", "logreg"])
    '; did you mean svm?'
    """
    found = difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f"; did you mean {', '.join(found)}?" if found else ""


def words_of(error: BaseException, most: int = 200) -> str:
    """First words of an error that is not featx's own, on one line; its type where it has none.

    Examples
    --------
    >>> words_of(ValueError("no  such  digit")), words_of(KeyError())
    ('no such digit', 'KeyError')
    """
    words = " ".join(str(error).split())[:most]
    return "".join(c if c.isprintable() else "?" for c in words) or type(error).__name__


def brief(error: BaseException, most: int = 160) -> str:
    """Type and first words of an error that is not featx's own.

    Examples
    --------
    >>> brief(ValueError("no  such  digit")), brief(KeyError())
    ('ValueError: no such digit', 'KeyError')
    """
    kind, words = type(error).__name__, words_of(error, most)
    return kind if words == kind else f"{kind}: {words}"


def shown(text: str, most: int = 200) -> str:
    """Write a text of the user's on one line of bounded length, for an error message.

    Examples
    --------
    >>> shown("a" + chr(9) + "b"), len(shown("x" * 10_000, 10))
    ('a?b', 13)
    """
    words = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return f"{words[:most]}..." if len(words) > most else words
