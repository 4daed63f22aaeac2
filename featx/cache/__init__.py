"""WHERE: the cache file, its fingerprint, durable writing, and reading. Only this imports h5py."""

from featx.cache.convert import Converted, merge, split
from featx.cache.features import Features
from featx.cache.fingerprint import ExtractSpec
from featx.cache.reader import Cache, open_cache

__all__ = ["Cache", "Converted", "ExtractSpec", "Features", "merge", "open_cache", "split"]
