"""WHERE: the cache file, its fingerprint, durable writing, and reading. Only this imports h5py."""

from featx.cache.features import Features
from featx.cache.fingerprint import ExtractSpec
from featx.cache.foreign import import_vectors
from featx.cache.merging import Merged, merge
from featx.cache.reader import Cache, open_cache
from featx.cache.splitting import Converted, split
from featx.cache.vectors import write_cache

__all__ = [
    "Cache",
    "Converted",
    "ExtractSpec",
    "Features",
    "Merged",
    "import_vectors",
    "merge",
    "open_cache",
    "split",
    "write_cache",
]
