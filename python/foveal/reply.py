"""What a turn gives back: text with its tokens and statistics, at once or piece by piece."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _foveal
from .errors import StateError

if TYPE_CHECKING:
    from .report import KvReport


class Stats(dict[str, Any]):
    """Statistics of a turn: a dict whose keys are attributes too.

    prompt_tokens, image_tokens, cached_tokens, completion_tokens; finish_reason: "stop", "length", "context",
    "cancelled"; started_over and note: whether and why the past was dropped; seed; ms: image_encode, prefill, evict,
    decode in milliseconds; kv: rows_min, rows_mean, rows_max per head, bytes, bytes_without_eviction, bytes_peak,
    evictions, r and kept_mass per layer and head.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__()
        for key, value in values.items():
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            self[key] = Stats(value) if isinstance(value, dict) else value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Usage:
    """Rows of a turn: the whole prompt, its pictures' among them, those that were cached, and the answer's."""

    prompt: int
    image: int
    cached: int
    completion: int


@dataclass(frozen=True)
class Timings:
    """Milliseconds of a turn: encoding pictures, prefill, choosing and moving rows, decode."""

    encode: float
    prefill: float
    evict: float
    decode: float


class Reply(str):
    """The reply's text, with `.tokens` (ids), `.stats`, and typed: `.finish_reason`, `.usage`, `.timings`, `.kv`."""

    tokens: list[int]
    stats: Stats
    kv: "KvReport | None"

    def __new__(cls, text: str, tokens: list[int], stats: Stats, kv: "KvReport | None" = None) -> "Reply":
        reply = super().__new__(cls, text)
        reply.tokens = tokens
        reply.stats = stats
        reply.kv = kv
        return reply

    @property
    def finish_reason(self) -> str:
        return str(self.stats.finish_reason)

    @property
    def usage(self) -> Usage:
        s = self.stats
        return Usage(s.prompt_tokens, s.image_tokens, s.cached_tokens, s.completion_tokens)

    @property
    def timings(self) -> Timings:
        ms = self.stats.ms
        return Timings(ms.image_encode, ms.prefill, ms.evict, ms.decode)

    @property
    def text(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Reply, (str(self), self.tokens, self.stats))


class ReplyStream(Iterator[str]):
    """Pieces of text as they come. Closing it, or leaving its `with` block, cancels the turn."""

    def __init__(self, session: _foveal.Session, report: "Callable[[], KvReport]") -> None:
        self._session = session
        self._report = report
        self._kv: KvReport | None = None
        self._pieces: list[str] = []
        self._result: tuple[list[int], Stats] | None = None

    def __iter__(self) -> "ReplyStream":
        return self

    def __next__(self) -> str:
        while self._result is None:
            piece = self._session.next()
            if piece is None:
                self._finish()
            elif piece:
                self._pieces.append(piece.decode("utf-8", "replace"))
                return self._pieces[-1]
        raise StopIteration

    def close(self) -> None:
        """Stops the turn; what has come so far is the reply."""
        if self._result is None:
            self._session.cancel()
            while self._session.next() is not None:
                pass
            self._finish()

    def _end(self) -> None:
        """For the session's next turn: StateError where another thread reads this one, which goes on."""
        if self._result is None:
            self._session.stop()
            self._finish()

    def _finish(self) -> None:
        self._result = (self._session.reply_tokens(), Stats(self._session.stats()))
        self._kv = self._report()

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    @property
    def tokens(self) -> list[int]:
        """The reply's token ids so far."""
        return self._session.reply_tokens() if self._result is None else self._result[0]

    @property
    def stats(self) -> Stats:
        """Statistics of the turn, once it is over."""
        if self._result is None:
            raise StateError("reply.stats: the reply isn't complete; read the stream to its end or close it")
        return self._result[1]

    def reply(self) -> Reply:
        """Reads what is left and returns the whole reply."""
        for _ in self:
            pass
        return Reply(self.text, self.tokens, self.stats, self._kv)

    @property
    def kv(self) -> "KvReport":
        """What the cache held when the turn ended."""
        if self._kv is None:
            raise StateError("reply.kv: the reply isn't complete; read the stream to its end or close it")
        return self._kv

    def __enter__(self) -> "ReplyStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the session may be closed, busy or of another process by now
            self.close()
