"""Options of the KV cache: how many rows stay, and which."""

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from . import _foveal
from .check import MAX_INT32, integer, path_bytes
from .errors import ArgumentError

Policy = Literal["snapkv", "pyramidkv", "adakv", "sparsemm", "streaming", "random"]
Mix = Literal["none", "vnorm", "keydiff", "fixed", "mixkv", "sharp"]


@dataclass(frozen=True)
class KV:
    """How a session keeps its keys and values. Checked when made: ArgumentError names the field.

    budget: rows per KV head and layer on average, the window included: 256, "25%" of the prompt, "256MiB", or "auto"
        (what memory leaves). None keeps everything.
    policy: which score and which budget per head ("adakv" shares a layer's rows among its heads by score).
    mix: importance mixed with diversity; "mixkv" weights them by each head's redundancy (arXiv 2510.20707), "sharp"
        multiplies diversity by what the last query and the sharpest one look at.
    window: last rows of the prompt, always kept; their queries score the others.
    sinks: first rows, always kept. scope: "image" lets only rows of pictures go.
    slack: rows a head may grow past its budget before it is evicted again.
    tables: file of SparseMM head scores and offline redundancy. seed: of policy "random".
    dtype: storage of the rows, "f16", "f32", "q8_0" or "q4_0" (these two need a head size that is a multiple of 32).
    on_full: at the end of the context "stop", "evict" (needs a budget) or "error".
    shadow: score and report (kv.r, kv.kept_mass), evict nothing.
    pin: never evicted, words with commas between: "system" (a chat's system message), "last-turn" (the text of the
        newest prompt, not its answer), "START:STOP" (token indices). The budget must hold them beside the window.
    """

    budget: int | str | None = None
    policy: Policy = "adakv"
    mix: Mix = "mixkv"
    window: int = 32
    sinks: int = 0
    scope: Literal["prompt", "image"] = "prompt"
    slack: int = 32
    tables: str | os.PathLike[str] | None = None
    seed: int = 0
    dtype: str = "f16"
    on_full: Literal["stop", "evict", "error"] = "stop"
    shadow: bool = False
    pin: str | None = None
    if TYPE_CHECKING:
        _native: _foveal.KvOptions = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("policy", "mix", "scope", "dtype", "on_full", "pin"):
            if name == "pin" and self.pin is None:
                continue
            if not isinstance(getattr(self, name), str):
                raise ArgumentError(f"KV {name}: found {getattr(self, name)!r:.80}, expected a str")
        native = _foveal.KvOptions(
            budget=self._budget_text(),
            policy=self.policy,
            mix=self.mix,
            window=integer("KV window", self.window, 0, MAX_INT32),
            sinks=integer("KV sinks", self.sinks, 0, MAX_INT32),
            scope=self.scope,
            slack=integer("KV slack", self.slack, 0, MAX_INT32),
            tables=b"" if self.tables is None else path_bytes("KV tables", self.tables),
            seed=integer("KV seed", self.seed, 0, 2**64 - 1),
            dtype=self.dtype,
            on_full=self.on_full,
            shadow=bool(self.shadow),
            pin=self.pin or "none",
        )
        object.__setattr__(self, "_native", native)

    def __reduce__(self) -> tuple[Any, ...]:
        return (KV, tuple(getattr(self, f.name) for f in fields(self)))

    @classmethod
    def _of(cls, values: dict[str, Any]) -> "KV":
        """From the native module's words."""
        budget, tables = values["budget"], values["tables"]
        known = None if budget == "none" else int(budget) if budget.isdigit() else budget
        pin = None if values["pin"] == "none" else values["pin"]
        return cls(**(values | {"budget": known, "tables": os.fsdecode(tables) if tables else None, "pin": pin}))

    def _budget_text(self) -> str:
        if self.budget is None:
            return "none"
        if isinstance(self.budget, str):
            return self.budget
        return str(integer("KV budget", self.budget, 1, 2**53))
