"""WHERE: the cache file, its fingerprint, durable writing, and reading. Only this imports h5py."""

from featx.cache.features import Features
from featx.cache.fingerprint import ExtractSpec
from featx.cache.merging import Merged, merge
from featx.cache.reader import Cache, open_cache
from featx.cache.splitting import Converted, split

__all__ = [
    "Cache",
    "Converted",
    "ExtractSpec",
    "Features",
    "Merged",
    "merge",
    "open_cache",
    "split",
]
