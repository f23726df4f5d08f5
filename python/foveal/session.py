"""A session: rows in, logits out, and chat on top. One thread at a time."""

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from . import _foveal
from .check import MAX_INT32, integer, path_bytes, real, utf8
from .compare import Comparison, compare
from .errors import ArgumentError, StateError
from .images import Pixels, to_pixels
from .kv import KV
from .messages import parse
from .reply import Reply, ReplyStream, Stats
from .report import KvReport

if TYPE_CHECKING:
    from .model import Model


log = logging.getLogger("foveal")


class Session:
    """Made by ``model.session()``. Holds the tokens seen and their KV rows."""

    def __init__(self, model: "Model", kv: KV, n_ctx: int, *, _native: _foveal.Session | None = None) -> None:
        self.model = model
        self.kv = kv
        self._native = _native or _foveal.Session(model._native, kv._native, n_ctx, model._progress._native)
        self._stream: ReplyStream | None = None
        self._pixels: list[Pixels | None] = []  # of the chat's pictures, for reports; None where they aren't known
        self._warned = False

    # ---- rows in, logits out

    def prefill(self, parts: Any) -> None:
        """Appends a prompt and ends with eviction.

        parts: a list of token ids, taken as they are, or a list mixing ids, str and pictures (path, bytes, PIL,
        array). A str is text and trusted: control tokens in it are parsed; a picture brings its family's own wrapping
        tokens; BOS comes first at position 0 when the file asks for it. A failed call changes nothing."""
        native = self._parts(parts)
        known = self._known_pixels()
        self._native.prefill(native)
        self._pixels = known
        self._after_rows()

    def step(self, token: int) -> None:
        """Appends one token; `logits` are then those of the next."""
        self._native.step(self.model._check_ids("token", [token])[0])
        self._after_rows()

    @property
    def logits(self) -> NDArray[np.float32]:
        """float32 [n_vocab] for the next token, a copy."""
        return self._native.logits()

    @property
    def tokens(self) -> list[int]:
        """Token ids seen, -1 for every row of a picture."""
        return self._native.tokens()

    @property
    def n_tokens(self) -> int:
        return self._native.n_tokens()

    @property
    def pos(self) -> int:
        """True position of the next token; eviction renumbers nothing."""
        return self._native.pos()

    @property
    def n_ctx(self) -> int:
        return self._native.n_ctx()

    # ---- the KV cache

    @property
    def kv_bytes(self) -> int:
        """Bytes that the KV store holds now."""
        return self._native.kv_bytes()

    @property
    def kv_peak_bytes(self) -> int:
        """Most bytes that it ever held; the layer in prefill, in float32, counts."""
        return self._native.kv_peak_bytes()

    def kept(self, il: int) -> list[NDArray[np.int32]]:
        """Token indices still held in layer `il`, ascending, one array per KV head."""
        return self._native.kept(self._layer(il))

    def kv_arrays(self, il: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """(K, V) of layer `il`: a float32 array [kept, head_dim] per KV head. For checks."""
        return self._native.kv_arrays(self._layer(il))

    def attention(self, il: int, queries: int = 1) -> list[NDArray[np.float32]]:
        """Softmax attention of the newest `queries` tokens over the rows that layer `il` holds: float32
        [queries, kept of its KV head] per query head, aligned with `kept(il)`; a query sees no later row. The newest 64
        queries (or the window's, if more) are remembered. UnsupportedError for a layer with a sliding window."""
        heads = self._native.attention(self._layer(il), integer("queries", queries, 1, MAX_INT32))
        return [rows for group in heads for rows in group.reshape(-1, queries, group.shape[1])]

    def kv_stats(self) -> Stats:
        """Of this moment: budget_rows (what the budget came to; -1: all), rows_min, rows_mean, rows_max per head,
        bytes, bytes_without_eviction, bytes_peak, evictions, r and kept_mass per layer and head."""
        return Stats(self._native.kv_stats())

    def evict(self, kv: KV) -> Stats:
        """Evicts now by other options: one full prefill, fork(), many policies. Returns the `kv` statistics."""
        return Stats(self._native.evict(self._options(kv)))

    @staticmethod
    def _options(kv: KV) -> _foveal.KvOptions:
        if not isinstance(kv, KV):
            raise ArgumentError(f"kv: found {type(kv).__name__}, expected foveal.KV")
        return kv._native

    def pin(self, start: int | None = None, stop: int | None = None, *, image: int | None = None) -> None:
        """Rows of the token indices [start, stop) are never evicted, or those of picture `image`. ArgumentError, and
        nothing changes, when the budget can't hold them beside the window."""
        if image is None:
            self._native.pin(integer("start", start, 0, MAX_INT32), integer("stop", stop, 0, MAX_INT32))
            return
        if start is not None or stop is not None:
            raise ArgumentError("pin: found both a range and image, expected one of them")
        pictures = self._native.images()
        if not pictures:
            raise ArgumentError("pin: the session has seen no picture")
        rows = pictures[integer("image", image, 0, len(pictures) - 1)]["rows"]
        self._native.pin(int(rows[0]), int(rows[-1]) + 1)

    def fork(self, kv: KV | None = None) -> "Session":
        """An independent copy, KV rows included; with `kv` what fork() and evict(kv) make, without ever copying the
        rows that go."""
        copy = Session(self.model, self.kv, 0, _native=self._native.fork(None if kv is None else self._options(kv)))
        copy._pixels, copy._warned = list(self._pixels), self._warned
        return copy

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything that the session is to one file, atomically: a crash leaves the old file or the new one."""
        self._native.save(path_bytes("path", path))

    def undo(self) -> Stats:
        """Takes back the last turn, a prefill or chat call and its tokens after. Exact when no row before it has been
        evicted since it began; otherwise the turns before it are read again, step for step, from the pictures' cached
        embeddings. Returns replayed (which of the two), rows, note."""
        return Stats(self._native.undo())

    def compare(self, question: str, images: Any = None, max_tokens: int = 64, kv: KV | None = None) -> Comparison:
        """Asks `question` twice after everything that the session has seen: with the whole cache (f16, nothing evicted,
        ever) and with the budget `kv` (None: the session's). The session itself stays as it is; what it has seen is
        computed again for each side, pictures from their cached embeddings."""
        return compare(self, question, images, integer("max_tokens", max_tokens, 1, MAX_INT32), kv)

    def kv_report(self) -> KvReport:
        """What the cache holds now, row by row: maps over pictures, shares of the text, an HTML page."""
        return KvReport(self._native, self.model, self._pixels)

    def _replay(self, kv: KV) -> "Session":
        again = Session(self.model, kv, 0, _native=self._native.replay(kv._native))
        again._pixels, again._warned = list(self._pixels), self._warned
        return again

    def _ask(self, question: str, images: Any) -> None:
        """Prefills the question: the chat's next message, or more text where the rows are no chat."""
        options = generate_options(max_tokens=1)
        parsed, pixels = parse(question, images)
        if self.n_tokens and not self._native.is_chat():
            self._native.start([*pixels, (utf8(question), False)], options)
        else:
            self._native.start_next(parsed[-1], pixels, options)

    def refresh(self, image_index: int = 0) -> None:
        """Reads a picture of this session again at the current position, from its cached embeddings, without the
        encoder: at full detail after its rows have been evicted."""
        index, known = integer("image_index", image_index, 0, MAX_INT32), self._known_pixels()
        self._native.refresh(index)
        self._pixels = [*known, known[index]]
        self._after_rows()

    def close(self) -> None:
        """Frees the KV rows; every later use is a StateError."""
        self._native.close()

    # ---- chat

    @overload
    def chat(self, messages: Any, images: Any = None, max_tokens: int = 256, temperature: float = 0.0, top_k: int = 40,
             top_p: float = 0.95, min_p: float = 0.05, repeat_penalty: float = 1.0, seed: int | None = None,
             stop: str | Iterable[str] | None = None, stream: Literal[False] = False) -> Reply: ...  # fmt: skip
    @overload
    def chat(self, messages: Any, images: Any = None, max_tokens: int = 256, temperature: float = 0.0, top_k: int = 40,
             top_p: float = 0.95, min_p: float = 0.05, repeat_penalty: float = 1.0, seed: int | None = None,
             stop: str | Iterable[str] | None = None, *, stream: Literal[True]) -> ReplyStream: ...  # fmt: skip

    def chat(
        self,
        messages: Any,
        images: Any = None,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Iterable[str] | None = None,
        stream: bool = False,
    ) -> Reply | ReplyStream:
        """Answers a conversation, given whole each time: what the session already holds is not computed again. A call
        that fails or is interrupted while the prompt is read changes nothing, also when the past had been changed.

        messages: OpenAI's (content a str or parts of text, image, image_url), Ollama's with "images", or a str.
        images: pictures for the last user message. max_tokens: -1 goes on to the end or the full context.
        temperature 0 is greedy; seed None takes a fresh one, reported in the stats. stream: an iterator of text
        pieces instead of the whole Reply; closing it cancels."""
        options = generate_options(max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, seed, stop)
        pieces = self._chat(messages, images, options)
        if stream:
            return pieces
        with pieces:
            return pieces.reply()

    def _chat(self, conversation: Any, images: Any, options: dict[str, Any]) -> ReplyStream:
        parsed, pixels = parse(conversation, images)
        seen = [pixels[p] for _, parts in parsed for p in parts if isinstance(p, int)]
        if not self.model._jinja:
            return self._stream_of(lambda: self._native.start_chat(parsed, pixels, options), seen)
        parts = [pixels[p] if isinstance(p, int) else p for p in self.model._render_jinja(parsed)]
        return self._stream_of(lambda: self._native.start_prompt(parts, options), seen)

    def _next(self, conversation: Any, images: Any, options: dict[str, Any]) -> ReplyStream:
        """Another user message after the chat that the session holds: the last of `conversation`."""
        parsed, pixels = parse(conversation, images)
        seen = [pixels[p] for p in parsed[-1][1] if isinstance(p, int)]
        start = lambda: self._native.start_next(parsed[-1], pixels, options)  # noqa: E731
        return self._stream_of(start, [*self._known_pixels(), *seen])

    def _generate(self, parts: Any, options: dict[str, Any]) -> ReplyStream:
        """Continues a raw prompt (parts as in `prefill`), without a chat template."""
        native = self._parts(parts)
        pixels = [part for part in native if isinstance(part, np.ndarray)]
        return self._stream_of(lambda: self._native.start(native, options), [*self._known_pixels(), *pixels])

    def _stream_of(self, start: Callable[[], None], pixels: Sequence[Pixels | None]) -> ReplyStream:
        """pixels: of all pictures that the session holds once it has started."""
        if self._stream is not None:
            self._stream._end()
        start()
        self._pixels = list(pixels)
        native, model, known, session = self._native, self.model, self._pixels, weakref.ref(self)

        def report() -> KvReport:
            if (alive := session()) is not None:  # a strong one would be a circle
                alive._after_rows()
            return KvReport(native, model, known)

        self._stream = ReplyStream(native, report)
        return self._stream

    def _known_pixels(self) -> list[Pixels | None]:
        """Of each picture that the session holds."""
        held = len(self._native.images())
        return (self._pixels + held * [None])[:held]

    def _after_rows(self) -> None:
        trained = self.model._info["n_ctx_train"]
        if not self._warned and 0 < trained < self._native.pos():
            self._warned = True
            log.warning("the session has passed the %d positions that its model was trained for", trained)

    def _parts(self, parts: Any) -> list[Any]:
        """Parts as the native module takes them: lists of ids, (text, trusted), pixels."""
        native: list[Any] = []
        for i, part in enumerate([parts] if isinstance(parts, str) else _iterable(parts)):
            name = f"parts[{i}]"
            if isinstance(part, str):
                native.append((utf8(part, name), True))
            elif isinstance(part, np.ndarray) and part.ndim == 1 and part.dtype.kind in "iu":
                native.append(self.model._check_ids(name, part))
            elif isinstance(part, bool | float | type(None)):
                raise ArgumentError(f"{name}: found {part!r}, expected a token id, str or picture")
            elif isinstance(part, int | np.integer):
                token = integer(name, part, 0, self.model._info["n_vocab"] - 1)
                if native and isinstance(native[-1], list):
                    native[-1].append(token)
                else:
                    native.append([token])
            else:
                native.append(to_pixels(part, name))
        return native

    def _layer(self, il: int) -> int:
        return integer("il", il, 0, self.model._info["n_layer"] - 1)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<foveal.Session {self.n_tokens} tokens, {self.kv_bytes} KV bytes>"

    def __reduce__(self) -> Any:
        raise StateError("a session can't be pickled or copied: use fork()")


def generate_options(
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_k: int = 40,
    top_p: float = 0.95,
    min_p: float = 0.05,
    repeat_penalty: float = 1.0,
    seed: int | None = None,
    stop: str | Iterable[str] | None = None,
    repeat_last_n: int = 64,
    ignore_eos: bool = False,
) -> dict[str, Any]:
    """Sampling options as the native module takes them; kinds are checked here, ranges by the engine."""
    stops = [stop] if isinstance(stop, str) else [] if stop is None else list(_iterable(stop, "stop"))
    return {
        "max_tokens": integer("max_tokens", max_tokens, -1, MAX_INT32),
        "temperature": real("temperature", temperature),
        "top_k": integer("top_k", top_k, 0, MAX_INT32),
        "top_p": real("top_p", top_p),
        "min_p": real("min_p", min_p),
        "repeat_penalty": real("repeat_penalty", repeat_penalty),
        "seed": None if seed is None else integer("seed", seed, 0, 2**64 - 1),
        "stop": [utf8(s, f"stop[{i}]") for i, s in enumerate(stops)],
        "repeat_last_n": integer("repeat_last_n", repeat_last_n, 0, MAX_INT32),
        "ignore_eos": bool(ignore_eos),
    }


def _iterable(values: Any, name: str = "parts") -> Iterable[Any]:
    if isinstance(values, bytes | dict) or not isinstance(values, Iterable):
        raise ArgumentError(f"{name}: found {type(values).__name__}, expected a list")
    return values
