"""WHERE: the cache file, its fingerprint, durable writing, and reading. Only this imports h5py."""

from featx.cache.cache import Cache, open_cache
from featx.cache.features import Features
from featx.cache.foreign import import_vectors
from featx.cache.merging import MergeResult, SplitResult, merge, split
from featx.cache.vectors import write_cache
from featx.spec import ExtractSpec

__all__ = [
    "Cache",
    "ExtractSpec",
    "Features",
    "MergeResult",
    "SplitResult",
    "import_vectors",
    "merge",
    "open_cache",
    "split",
    "write_cache",
]
