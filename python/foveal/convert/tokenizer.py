"""tokenizer.json or tokenizer.model, with the chat template and the special tokens, as tokenizer.ggml.* keys."""

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FileError, FormatError, UnsupportedError
from .checkpoint import find_json, read_json
from .pre_tokenizer import pre_tokenizer_name

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
# Added tokens that are marks of a conversation though some files don't call them special.
MARKS = re.compile(r"<\|[^|]*\|>|<start_of_turn>|<end_of_turn>|<start_of_image>|<end_of_image>|\[/?INST\]|</?s>")


@dataclass
class Vocabulary:
    """The words of a tokenizer. `model`: "gpt2" (byte-level BPE) or "llama" (SentencePiece)."""

    model: str
    pre: str
    words: dict[int, str]
    kinds: dict[int, int]
    scores: dict[int, float] = field(default_factory=dict)
    merges: list[str] = field(default_factory=list)
    space_prefix: bool | None = None  # SentencePiece: a space before the text
    starts_with: str | None = None  # the special token that the tokenizer puts first
    template: bool = False  # whether the file says what it puts first


def _added_tokens(folder: Path, tokenizer: dict[str, Any]) -> dict[int, tuple[str, bool]]:
    """id -> (text, special), from all places that list them; later ones win."""
    added: dict[int, tuple[str, bool]] = {}
    for text, number in find_json(folder, "added_tokens.json").items():
        added[int(number)] = (str(text), False)
    for entry in tokenizer.get("added_tokens") or []:
        added[int(entry["id"])] = (str(entry["content"]), bool(entry.get("special")))
    listed = find_json(folder, "tokenizer_config.json").get("added_tokens_decoder") or {}
    for key, entry in listed.items():
        added[int(key)] = (str(entry["content"]), bool(entry.get("special")))
    return added


def _apply_added(v: Vocabulary, added: dict[int, tuple[str, bool]]) -> None:
    for number, (text, special) in added.items():
        if v.kinds.get(number) in (UNKNOWN, BYTE):
            continue
        control = special or MARKS.fullmatch(text) is not None
        v.words[number] = text if control else text.replace(SPACE, " ")
        v.kinds[number] = CONTROL if control else USER_DEFINED
        if v.model == "llama":
            v.scores[number] = -1000.0


def _first_token(tokenizer: dict[str, Any]) -> tuple[bool, str | None]:
    """(whether a template stands in the post-processor, the special token that it begins with)."""
    node = tokenizer.get("post_processor") or {}
    for step in node.get("processors", [node]):
        if step.get("type") == "TemplateProcessing" and step.get("single"):
            first = step["single"][0].get("SpecialToken")
            return True, str(first["id"]) if first else None
    return False, None


def _byte_level(path: Path, tokenizer: dict[str, Any]) -> Vocabulary:
    model = tokenizer["model"]
    words = {int(number): str(text) for text, number in model["vocab"].items()}
    merges = [" ".join(m) if isinstance(m, list) else str(m) for m in model.get("merges") or []]
    return Vocabulary("gpt2", pre_tokenizer_name(path, tokenizer), words, dict.fromkeys(words, NORMAL), merges=merges)


def _byte_fallback(tokenizer: dict[str, Any]) -> Vocabulary:
    """SentencePiece's BPE as tokenizer.json writes it: words merge in the order of `merges`, which the scores keep."""
    model = tokenizer["model"]
    words = {int(number): str(text) for text, number in model["vocab"].items()}
    rank: dict[str, int] = {}
    for i, pair in enumerate(model.get("merges") or []):
        left, right = pair if isinstance(pair, list) else str(pair).split(" ", 1)
        rank.setdefault(left + right, i)
    v = Vocabulary("llama", "default", words, {})
    unknown = model.get("unk_token")
    for number, text in words.items():
        v.kinds[number] = BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", text) else UNKNOWN if text == unknown else NORMAL
        v.scores[number] = -float(rank[text]) if text in rank else -1e6
    cut = tokenizer.get("pre_tokenizer") or {}
    normal = tokenizer.get("normalizer") or {}
    steps = normal.get("normalizers", [normal])
    v.space_prefix = any(step.get("type") == "Prepend" for step in steps) or (
        cut.get("type") == "Metaspace" and cut.get("prepend_scheme", "always") != "never"
    )
    return v


def _protobuf(data: bytes) -> list[tuple[int, Any]]:
    """(field, value) pairs of a message: integers, 32-bit fields and byte strings as they lie there."""
    out: list[tuple[int, Any]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            out.append((tag >> 3, varint()))
            continue
        n = {1: 8, 5: 4}[tag & 7] if tag & 7 != 2 else varint()
        if at + n > len(data):
            raise IndexError
        out.append((tag >> 3, data[at : at + n]))
        at += n
    return out


def _sentencepiece(path: Path) -> Vocabulary:
    """tokenizer.model: a ModelProto of 1 = pieces {1 text, 2 score, 3 kind}, 2 = training {3 model_type},
    3 = normalizer {3 add_dummy_prefix}."""
    v = Vocabulary("llama", "default", {}, {}, space_prefix=True)
    try:
        fields = _protobuf(path.read_bytes())
        pieces = [dict(_protobuf(value)) for number, value in fields if number == 1]
        for number, value in fields:
            if number == 3:
                v.space_prefix = bool(dict(_protobuf(value)).get(3, 1))
            if number == 2 and dict(_protobuf(value)).get(3, 1) != 2:
                raise UnsupportedError(f"{path}: found a unigram model, expected BPE")
        for i, piece in enumerate(pieces):
            v.words[i] = piece[1].decode("utf-8")
            v.scores[i] = struct.unpack("<f", piece.get(2, bytes(4)))[0]
            v.kinds[i] = int(piece.get(3, NORMAL))
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error):
        raise FormatError(f"{path}: no SentencePiece model") from None
    if not v.words:
        raise FormatError(f"{path}: no SentencePiece model")
    return v


def read_vocabulary(folder: Path) -> Vocabulary:
    """The tokenizer of a folder. Errors: FileError (no file), FormatError, UnsupportedError (another kind)."""
    path, model_file = folder / "tokenizer.json", folder / "tokenizer.model"
    tokenizer = read_json(path) if path.is_file() else {}
    try:
        if model_file.is_file():
            v = _sentencepiece(model_file)
        elif not tokenizer:
            raise FileError(f"{folder}: found neither tokenizer.json nor tokenizer.model")
        elif tokenizer["model"].get("type") != "BPE":
            found = tokenizer["model"].get("type")
            raise UnsupportedError(f"{path}: found a model of type {found!r}, expected 'BPE'")
        elif tokenizer["model"].get("byte_fallback"):
            v = _byte_fallback(tokenizer)
        else:
            v = _byte_level(path, tokenizer)
        _apply_added(v, _added_tokens(folder, tokenizer))
        v.template, v.starts_with = _first_token(tokenizer)
    except (KeyError, TypeError, AttributeError, IndexError) as e:
        raise FormatError(f"{path}: {type(e).__name__} {e}: not laid out as expected") from None
    return v


def chat_template(folder: Path) -> str | None:
    """The folder's template, None when it has none."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    for name in ("chat_template.json", "tokenizer_config.json", "processor_config.json"):
        found = find_json(folder, name).get("chat_template")
        if isinstance(found, list):  # several by name
            found = next((entry.get("template") for entry in found if entry.get("name") == "default"), None)
        if isinstance(found, str) and found:
            return found
    return None


def _special_ids(folder: Path, v: Vocabulary, configs: list[dict[str, Any]]) -> dict[str, int]:
    """bos, eos, unk, pad -> id: the tokenizer's own names first, else the model's ids."""
    by_text = {text: number for number, text in sorted(v.words.items(), reverse=True)}
    tokenizer_config = find_json(folder, "tokenizer_config.json")
    named = {**find_json(folder, "special_tokens_map.json"), **{k: t for k, t in tokenizer_config.items() if t}}
    ids = {}
    for name in ("bos", "eos", "unk", "pad"):
        token = named.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and text in by_text:
            ids[name] = by_text[text]
            continue
        for config in configs:
            number = config.get(f"{name}_token_id")
            number = number[0] if isinstance(number, list) and number else number
            if isinstance(number, int) and number in v.words:
                ids[name] = number
                break
    return ids


def tokenizer_keys(folder: Path, n_vocab: int, configs: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Keys for a model of `n_vocab` embedding rows; words that no row has are left out, rows without a word become
    unused. `configs`: where the model's own ids stand."""
    v = read_vocabulary(folder)
    words = [v.words.get(i, f"[PAD{i}]") for i in range(n_vocab)]
    keys: list[tuple[str, Any]] = [
        ("tokenizer.ggml.model", v.model),
        ("tokenizer.ggml.pre", v.pre),
        ("tokenizer.ggml.tokens", [word.encode("utf-8", "surrogatepass") for word in words]),
    ]
    if v.model == "llama":
        keys.append(("tokenizer.ggml.scores", [float(v.scores.get(i, -1e4)) for i in range(n_vocab)]))
    keys.append(("tokenizer.ggml.token_type", [v.kinds.get(i, UNUSED) for i in range(n_vocab)]))
    if v.model == "gpt2":
        keys.append(("tokenizer.ggml.merges", v.merges))
    ids = {name: number for name, number in _special_ids(folder, v, configs).items() if number < n_vocab}
    spelled = {"unk": "unknown", "pad": "padding"}
    keys += [(f"tokenizer.ggml.{spelled.get(name, name)}_token_id", number) for name, number in ids.items()]
    config = find_json(folder, "tokenizer_config.json")
    if v.template:
        first = "bos" in ids and v.starts_with == v.words[ids["bos"]]
    else:
        first = bool(config.get("add_bos_token", v.model == "llama"))
    keys.append(("tokenizer.ggml.add_bos_token", first))
    keys.append(("tokenizer.ggml.add_eos_token", False))
    if v.space_prefix is not None:
        keys.append(("tokenizer.ggml.add_space_prefix", v.space_prefix))
    template = chat_template(folder)
    if template:
        keys.append(("tokenizer.chat_template", template))
    return keys
