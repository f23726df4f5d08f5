"""Vision-language models from GGUF files, the KV cache held inside a budget by MixKV."""

from . import evict
from ._foveal import version as __version__
from .errors import (
    ArgumentError,
    ContextFull,
    DeviceError,
    Error,
    FileError,
    FormatError,
    ImageError,
    MemoryLimit,
    MismatchError,
    StateError,
    UnsupportedError,
)
from .kv import KV
from .model import Model
from .progress import Progress
from .reply import Reply, ReplyStream, Stats
from .session import Session
from .tokenizer import Tokenizer

__all__ = [
    "KV",
    "ArgumentError",
    "ContextFull",
    "DeviceError",
    "Error",
    "FileError",
    "FormatError",
    "ImageError",
    "MemoryLimit",
    "MismatchError",
    "Model",
    "Progress",
    "Reply",
    "ReplyStream",
    "Session",
    "StateError",
    "Stats",
    "Tokenizer",
    "UnsupportedError",
    "__version__",
    "evict",
]
