"""Which `tokenizer.ggml.pre` a tokenizer.json stands for, read from the structure of its pre_tokenizer."""

from pathlib import Path
from typing import Any

from ..errors import UnsupportedError

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LOWER, UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"


def _words(digits: str) -> str:
    return CONTRACTIONS + rf"|{BEFORE}\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|" + ENDS


def _cased(digits: str, suffix: str) -> str:
    words = rf"{BEFORE}{UPPER}*{LOWER}+{suffix}|{BEFORE}{UPPER}+{LOWER}*{suffix}"
    return words + rf"|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|" + ENDS


# Patterns that cut the text, in order -> name. "digits" and "bytes" are steps without a pattern.
KNOWN: dict[tuple[str, ...], str] = {
    (_words("{1,3}"),): "llama-bpe",
    (_words(""),): "qwen2",
    (CONTRACTIONS + rf"|{BEFORE}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|" + ENDS,): "qwen35",
    (_cased("", ""),): "tekken",
    (_cased("{1,3}", CONTRACTIONS + "?"),): "gpt-4o",
    ("digits", "bytes"): "smollm",
    ("bytes",): "gpt-2",
    (
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ): "deepseek-v3",
}


def _steps(node: Any) -> list[dict[str, Any]]:
    if not isinstance(node, dict):
        return []
    if node.get("type") == "Sequence":
        return [step for inner in node.get("pretokenizers") or node.get("normalizers") or [] for step in _steps(inner)]
    return [node]


def pre_tokenizer_name(path: Path, tokenizer: dict[str, Any]) -> str:
    """Name of the splitting rule. Errors: UnsupportedError showing the structure that isn't known."""
    normalizers = [str(step.get("type")) for step in _steps(tokenizer.get("normalizer"))]
    if any(name != "NFC" for name in normalizers):
        raise UnsupportedError(f"{path}: normalizer {'+'.join(normalizers)} isn't supported for byte-level BPE")
    cuts, shown = [], []
    for step in _steps(tokenizer.get("pre_tokenizer")):
        kind, pattern = step.get("type"), step.get("pattern")
        shown.append(str(kind))
        if kind == "Split" and isinstance(pattern, dict) and "Regex" in pattern and not step.get("invert"):
            shown[-1] += f" {pattern['Regex']!r}"
            if step.get("behavior") == "Isolated":
                cuts.append(str(pattern["Regex"]))
                continue
        elif kind == "Digits" and step.get("individual_digits"):
            cuts.append("digits")
            continue
        elif kind == "ByteLevel" and not step.get("add_prefix_space", True):
            if step.get("use_regex", True):
                cuts.append("bytes")
            continue
        cuts.append(f"unknown {kind}")
    name = KNOWN.get(tuple(cuts))
    if name is None:
        raise UnsupportedError(
            f"{path}: unknown pre-tokenizer: {' then '.join(shown) or 'none'}; known are {', '.join(KNOWN.values())}"
        )
    return name
