"""A model: the text GGUF, its mmproj, and the sessions that run on it."""

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import _foveal, messages
from .check import MAX_INT32, integer, path_bytes, token_ids
from .errors import ArgumentError, StateError
from .geometry import BY_PROJECTOR, Convention, to_original
from .images import to_pixels
from .kv import KV
from .progress import Progress
from .session import Session
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .jinja import PromptPart

log = logging.getLogger("foveal")


class Model:
    """A loaded model; immutable, so several sessions and threads may share it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        mmproj: str | os.PathLike[str] | None = None,
        device: str = "auto",
        gpu_layers: int | Literal["auto"] = "auto",
        threads: int | None = None,
        image_min_tokens: int | None = None,
        image_max_tokens: int | None = None,
        vision_precision: Literal["auto", "f32", "bf16", "bf16x3"] = "auto",
        *,
        stream_prefill: Literal["auto", "on", "off"] = "auto",
        mmproj_offload: bool = True,
        chat_template: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Loads `path` and, for pictures, `mmproj`.

        device: "auto" takes a GPU where build and machine have one, "cpu", "cuda", or "cuda:N" as ``list_devices()``
        counts. gpu_layers: so many of the last layers are on the GPU; "auto": as many as fit.
        stream_prefill: the other layers read a prompt on the GPU too, their weights streamed through it; "auto": where
        the prompt is long enough for that to be faster. The picture encoder goes to the GPU too where layers do and it
        fits, unless mmproj_offload is False or vision_precision isn't "auto".

        threads: None takes the physical cores. image_min_tokens, image_max_tokens: rows per picture, None for the
        file's or the family's own limits. vision_precision: "bf16" multiplies in bfloat16 in the picture encoder,
        faster on CPUs with AMX and with an error of its own; "bf16x3" in parts of bfloat16, nearly as exact as "f32";
        "auto" is "bf16x3" on CPUs with AMX and "f32" elsewhere.
        chat_template: a name of ``chat_template_names()``, or "jinja" for the
        file's own template in Jinja2's sandbox; None recognises the file's.
        """
        if not isinstance(device, str):
            raise ArgumentError(f"device: found {device!r:.60}, expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
        if vision_precision not in ("auto", "f32", "bf16", "bf16x3"):
            raise ArgumentError(f"vision_precision: found {vision_precision!r:.60}, expected auto, f32, bf16 or bf16x3")
        if stream_prefill not in ("auto", "on", "off"):
            raise ArgumentError(f"stream_prefill: found {stream_prefill!r:.60}, expected auto, on or off")
        if not isinstance(mmproj_offload, bool):
            raise ArgumentError(f"mmproj_offload: found {mmproj_offload!r:.60}, expected True or False")
        if progress is not None and not isinstance(progress, Progress):
            raise ArgumentError(f"progress: found {type(progress).__name__}, expected foveal.Progress")
        self._progress = progress or Progress()
        self._native = _foveal.Model.load(
            path=path_bytes("path", path),
            mmproj=b"" if mmproj is None else path_bytes("mmproj", mmproj),
            device=device,
            gpu_layers=-1 if gpu_layers == "auto" else integer("gpu_layers", gpu_layers, 0, MAX_INT32),
            stream_prefill=stream_prefill,
            threads=0 if threads is None else integer("threads", threads, 1, 1024),
            image_min_tokens=_rows("image_min_tokens", image_min_tokens),
            image_max_tokens=_rows("image_max_tokens", image_max_tokens),
            vision_precision=vision_precision,
            mmproj_offload=mmproj_offload,
            progress=self._progress._native,
        )
        self._jinja = chat_template == "jinja"
        if chat_template is not None and not self._jinja:
            self._native.set_chat_template(chat_template)
        self._tokenizer = Tokenizer._of(self._native.tokenizer())
        self._info = _decoded(self._native.info())
        if self._info["placement"]:
            log.info("%s", self._info["placement"])
        for warning in self._info["warnings"]:
            if chat_template is None or ": chat template:" not in warning:
                log.warning("%s", warning)

    @property
    def info(self) -> dict[str, Any]:
        """arch, name, n_layer, n_head, n_head_kv, head_dim, n_embd, n_vocab, n_ctx_train, file_type, bytes, backend,
        placement (what is on the GPU; "" when none was looked at), warnings, vision (None or a mapping)."""
        return dict(self._info)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Token ids, without BOS. special: control tokens in `text` are parsed."""
        return self._tokenizer.encode(text, special)

    def detokenize(self, tokens: Any) -> str:
        return self._tokenizer.decode(tokens)

    def encode_image(self, image: Any) -> NDArray[np.float32]:
        """The rows that stand in the prompt's place of a picture, float32 [n_rows, n_embd], in sequence order.

        image: a path, bytes, a file object, a PIL.Image, or uint8 [height, width, 3]."""
        rows = self._native.encode_image(to_pixels(image))
        return rows[:, : self._info["n_embd"]]

    def apply_template(self, messages_: Any, images: Any = None) -> str:
        """The prompt of a conversation as text, pictures as ``<__media__>``; without `images` a part {"type": "image"}
        needs no picture. For looking at: a session marks which text may hold control tokens, and a str can't."""
        parsed, _ = messages.parse(messages_, images, marks=True)
        if not self._jinja:
            return self._native.apply_template(parsed).decode("utf-8", "replace")
        texts = [b"<__media__>" if isinstance(p, int) else p[0] for p in self._render_jinja(parsed)]
        return b"".join(texts).decode("utf-8", "replace")

    def session(self, kv: KV | None = None, n_ctx: int | None = None) -> Session:
        """A new conversation. kv: None keeps every row. n_ctx: None takes the trained context, 8192 at most."""
        if kv is not None and not isinstance(kv, KV):
            raise ArgumentError(f"kv: found {type(kv).__name__}, expected foveal.KV or None")
        return Session(self, kv or KV(), 0 if n_ctx is None else integer("n_ctx", n_ctx, 1, MAX_INT32))

    def to_original(
        self, value: Sequence[float], size: tuple[int, int], convention: Convention | None = None
    ) -> tuple[float, ...]:
        """A point (x, y) or box (x0, y0, x1, y1) that the model wrote, in pixels of a picture of size (width, height).

        convention: "pixels" of the resized picture, "1000", "unit"; None takes what the family was trained on."""
        plan = self._native.plan_image(*size)
        projector = self._info["vision"]["projector"]
        convention = convention or BY_PROJECTOR.get(projector)
        if convention is None:
            raise ArgumentError(f"convention: {projector} models have no settled one; give 'pixels', '1000' or 'unit'")
        return to_original(value, size, plan["resized"], convention)

    def load_session(self, path: str | os.PathLike[str]) -> Session:
        """Opens what ``session.save()`` wrote: FormatError for a damaged file, MismatchError for another model,
        quantisation, mmproj or format version."""
        native = _foveal.Session.load(self._native, path_bytes("path", path), self._progress._native)
        return Session(self, KV._of(native.kv_options()), 0, _native=native)

    def close(self) -> None:
        """Lets go of the model; its memory is freed with the last session on it."""
        self._native.close()

    def _render_jinja(self, parsed: list[messages.NativeMessage]) -> "list[PromptPart]":
        from . import jinja  # a tenth of a second that only this template costs

        template = self._native.template_text().decode("utf-8", "replace")
        bos, eos = (self._token_text(i) for i in (self._tokenizer.bos, self._tokenizer.eos))
        return jinja.render(template, parsed, bos, eos)

    def _token_text(self, token: int | None) -> str:
        return "" if token is None else self._tokenizer.decode([token])

    def _check_ids(self, name: str, ids: Any) -> list[int]:
        return token_ids(name, ids, self._info["n_vocab"])

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        i = self._info
        vision = i["vision"]["projector"] if i["vision"] else "none"
        return f"<foveal.Model {i['name'] or i['arch']}, {i['file_type']}, vision {vision}>"

    def __reduce__(self) -> Any:
        raise StateError("a model can't be pickled or copied: open the file anew")


def chat_template_names() -> list[str]:
    """Names for ``Model(chat_template=...)``, beside "jinja"."""
    return _foveal.chat_template_names()


def _rows(name: str, value: int | None) -> int:
    return 0 if value is None else integer(name, value, 1, MAX_INT32)


def _decoded(info: dict[str, Any]) -> dict[str, Any]:
    return {k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in info.items()}
