"""WHERE: the cache file, its fingerprint, durable writing, and reading. Only this imports h5py."""

from featx.cache.fingerprint import ExtractSpec
from featx.cache.reader import Cache, Features, open_cache

__all__ = ["Cache", "ExtractSpec", "Features", "open_cache"]
