"""Vision-language models from GGUF files, the KV cache held inside a budget by MixKV."""

from . import evict
from ._foveal import list_devices
from ._foveal import version as __version__
from .compare import Comparison
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
from .plan import Plan, plan
from .progress import Progress
from .reply import Reply, ReplyStream, Stats, Timings, Usage
from .report import KvReport
from .session import Session
from .tokenizer import Tokenizer

__all__ = [
    "KV",
    "ArgumentError",
    "Comparison",
    "ContextFull",
    "DeviceError",
    "Error",
    "FileError",
    "FormatError",
    "ImageError",
    "KvReport",
    "MemoryLimit",
    "MismatchError",
    "Model",
    "Plan",
    "Progress",
    "Reply",
    "ReplyStream",
    "Session",
    "StateError",
    "Stats",
    "Timings",
    "Tokenizer",
    "UnsupportedError",
    "Usage",
    "__version__",
    "evict",
    "list_devices",
    "plan",
]
