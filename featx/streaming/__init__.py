"""Heads larger than memory: features are read in blocks. Knows neither torch nor h5py."""

from featx.streaming.blocks import Blocks
from featx.streaming.choosing import STREAMED, StreamedResult, search_blocks, streams
from featx.streaming.memory import Memory, plan_memory

__all__ = [
    "STREAMED",
    "Blocks",
    "Memory",
    "StreamedResult",
    "plan_memory",
    "search_blocks",
    "streams",
]
