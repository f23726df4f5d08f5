"""Text to token ids and back, by the vocabulary of a GGUF file."""

import os
from collections.abc import Iterable

from . import _foveal
from .check import path_bytes, token_ids, utf8


class Tokenizer:
    """The tokenizer in any GGUF with a ``tokenizer.ggml.*`` vocabulary; a vocab-only file will do."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._native = _foveal.Tokenizer.load(path_bytes("path", path))

    @classmethod
    def _of(cls, native: _foveal.Tokenizer) -> "Tokenizer":
        tokenizer = cls.__new__(cls)
        tokenizer._native = native
        return tokenizer

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of `text`; no BOS is added. With special=False no control token can come out of it."""
        return self._native.encode(utf8(text), bool(special))

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`; bytes that are no UTF-8 become U+FFFD."""
        return self._native.decode(token_ids("tokens", tokens, self.n_vocab)).decode("utf-8", "replace")

    @property
    def n_vocab(self) -> int:
        return self._native.n_vocab

    @property
    def bos(self) -> int | None:
        """The token that begins a text, if the file names one."""
        return self._native.bos

    @property
    def eos(self) -> int | None:
        return self._native.eos

    @property
    def add_bos(self) -> bool:
        """Whether the file asks for BOS at the start of a prompt."""
        return self._native.add_bos

    def is_eog(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        return self._native.is_eog(token_ids("token", [token], self.n_vocab)[0])
