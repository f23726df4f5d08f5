"""Decoders of the families llama, qwen2, qwen2vl, qwen3, qwen3vl, gemma3: config.json to keys, names to names."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, UnsupportedError
from .checkpoint import Stored
from .mapping import Change, Mapping, Output

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen2_vl": "qwen2vl",
    "qwen2_vl_text": "qwen2vl",
    "qwen2_5_vl": "qwen2vl",
    "qwen2_5_vl_text": "qwen2vl",
    "qwen3": "qwen3",
    "qwen3_vl_text": "qwen3vl",
    "gemma3_text": "gemma3",
}
# What config.json leaves out, by model_type: the original configurations' defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 131072,
    },
    "qwen3": {"head_dim": 128},
    "qwen3_vl_text": {"head_dim": 128, "max_position_embeddings": 128000, "rope_theta": 500000.0},
    "gemma3_text": {
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072, "sliding_window": 4096,
        "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
    },
}  # fmt: skip
PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.text_model.", "text_model.")
EVERY = 6  # Gemma 3: each sixth layer sees everything


@dataclass
class TextModel:
    """The text part of a folder: its configuration with defaults filled in, and its tensors."""

    where: str
    arch: str
    config: dict[str, Any]
    tensors: dict[str, Stored]  # by names such as "layers.0.self_attn.q_proj.weight"
    tied: bool | None  # tie_word_embeddings, where the folder says
    n_deepstack: int

    @property
    def n_vocab(self) -> int:
        return self._tensor("embed_tokens.weight").shape[0]

    def _tensor(self, name: str) -> Stored:
        if name not in self.tensors:
            raise FormatError(f"{self.where}: tensor '{name}' is missing")
        return self.tensors[name]

    def number(self, key: str, default: float | None = None) -> float:
        value = self.config.get(key, default)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise FormatError(f"{self.where}: config.json: '{key}': found {value!r:.60}, expected a number above 0")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if value != int(value):
            raise FormatError(f"{self.where}: config.json: '{key}': found {value!r:.60}, expected an integer")
        return int(value)

    @property
    def head_dim(self) -> int:
        return self.integer("head_dim", self.integer("hidden_size") // self.integer("num_attention_heads"))


def text_name(name: str) -> str:
    """A tensor's name without what different versions put before it."""
    prefix = next((p for p in PREFIXES if name.startswith(p)), "model." if name.startswith("model.") else "")
    return name[len(prefix) :]


def open_text(folder: Path, config: dict[str, Any], tensors: dict[str, Stored]) -> TextModel:
    """The decoder that config.json describes. Errors: UnsupportedError naming an unknown architecture."""
    inner = config.get("text_config") or config.get("llm_config") or config
    flat = {k: v for k, v in config.items() if not k.endswith("_config")}
    kind = str(inner.get("model_type") or "llama")
    if kind not in ARCHITECTURES:
        named = (inner.get("architectures") or config.get("architectures") or ["?"])[0]
        raise UnsupportedError(
            f"{folder / 'config.json'}: architecture {named} (model_type '{kind}') isn't supported; known are "
            f"{', '.join(ARCHITECTURES)}"
        )
    merged = {**DEFAULTS.get(kind, {}), **(flat if inner is config else {}), **inner}
    tied = inner.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    deepstack = (config.get("vision_config") or {}).get("deepstack_visual_indexes") or []
    model = TextModel(
        str(folder), ARCHITECTURES[kind], merged, {text_name(k): t for k, t in tensors.items()}, tied, len(deepstack)
    )
    if merged.get("num_local_experts") or merged.get("num_experts"):
        raise UnsupportedError(f"{folder / 'config.json'}: mixtures of experts aren't supported")
    return model


def _rope(m: TextModel, notes: list[str]) -> tuple[list[tuple[str, Any]], list[Output]]:
    """Keys of the rotation below `{arch}.rope.`, and Llama 3's divisors as a tensor."""
    given = m.config.get("rope_parameters") or m.config.get("rope_scaling") or {}
    local = given.get("sliding_attention") or {}
    p = given.get("full_attention", given) or {}
    base = float(p.get("rope_theta") or m.number("rope_theta", 10000.0))
    keys: list[tuple[str, Any]] = [("freq_base", base)]
    if m.arch == "gemma3":
        keys.append(("freq_base_swa", float(local.get("rope_theta") or m.number("rope_local_base_freq", 10000.0))))
    if float(p.get("partial_rotary_factor") or m.config.get("partial_rotary_factor") or 1) != 1:
        raise UnsupportedError(f"{m.where}: config.json: partial_rotary_factor below 1 isn't supported")
    kind = p.get("rope_type") or p.get("type") or "default"
    factor = float(p.get("factor") or 1)
    original = p.get("original_max_position_embeddings") or m.config.get("original_max_position_embeddings")
    if kind == "linear":
        keys += [("scaling.type", "linear"), ("scaling.factor", factor)]
    elif kind == "yarn":
        keys += [("scaling.type", "yarn"), ("scaling.factor", factor)]
        keys.append(("scaling.original_context_length", int(original or m.integer("max_position_embeddings"))))
        keys += [(f"scaling.yarn_{k}", float(p[k])) for k in ("beta_fast", "beta_slow") if p.get(k) is not None]
        if p.get("mscale") or p.get("mscale_all_dim"):
            raise UnsupportedError(f"{m.where}: config.json: YaRN with mscale isn't supported")
        if p.get("attention_factor") is not None:  # the file's factor comes on top of YaRN's own
            keys.append(("scaling.attn_factor", float(p["attention_factor"]) / (0.1 * math.log(factor) + 1)))
    elif kind == "dynamic":
        notes.append(f"dynamic RoPE scaling is left out: exact up to {m.integer('max_position_embeddings')} tokens")
    elif kind not in ("default", "mrope", "llama3"):
        raise UnsupportedError(f"{m.where}: config.json: RoPE scaling {kind!r:.40} isn't supported")
    sections = p.get("mrope_section") or given.get("mrope_section")
    if m.arch in ("qwen2vl", "qwen3vl"):
        if not isinstance(sections, list) or len(sections) != 3:
            raise FormatError(f"{m.where}: config.json: 'mrope_section': found {sections!r:.60}, expected 3 integers")
        keys.append(("dimension_sections", [int(n) for n in sections] + [0]))
    return keys, [_llama3_divisors(m, base, p)] if kind == "llama3" else []


def _llama3_divisors(m: TextModel, base: float, p: dict[str, Any]) -> Output:
    """Frequencies are divided by these: 1 for short waves, `factor` for long ones, a ramp between (Llama 3.1)."""
    half = m.head_dim // 2
    frequency = base ** (-np.arange(half, dtype=np.float64) / half)
    factor, low, high = (float(p[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(p["original_max_position_embeddings"]) * frequency / (2 * np.pi)  # over the first context
    ramp = np.clip((turns - low) / (high - low), 0, 1)
    divisors = (1 / ((1 - ramp) / factor + ramp)).astype(np.float32)
    return Output("rope_freqs.weight", divisors.shape, lambda: divisors)


def text_keys(m: TextModel, notes: list[str]) -> tuple[list[tuple[str, Any]], list[Output]]:
    """Keys of the architecture, and tensors that come from the configuration."""
    n_head = m.integer("num_attention_heads")
    rope, extra = _rope(m, notes)
    keys: list[tuple[str, Any]] = [
        ("block_count", m.integer("num_hidden_layers")),
        ("context_length", m.integer("max_position_embeddings")),
        ("embedding_length", m.integer("hidden_size")),
        ("feed_forward_length", m.integer("intermediate_size")),
        ("attention.head_count", n_head),
        ("attention.head_count_kv", m.integer("num_key_value_heads", n_head)),
        ("attention.key_length", m.head_dim),
        ("attention.value_length", m.head_dim),
        ("attention.layer_norm_rms_epsilon", float(m.number("rms_norm_eps", 1e-6))),
        *((f"rope.{key}", value) for key, value in rope),
    ]
    if m.arch == "llama":
        keys += [("vocab_size", m.n_vocab), ("rope.dimension_count", m.head_dim)]
    if m.arch == "qwen3vl":
        keys.append(("n_deepstack_layers", m.n_deepstack))
    if m.arch == "gemma3":
        keys += _gemma3_keys(m)
    elif m.config.get("sliding_window") and m.config.get("use_sliding_window", m.config.get("model_type") == "mistral"):
        notes.append(f"the sliding window of {m.config['sliding_window']} tokens is left out: exact up to there")
    return [(f"{m.arch}.{key}", value) for key, value in keys], extra


def _gemma3_keys(m: TextModel) -> list[tuple[str, Any]]:
    where = f"{m.where}: config.json"
    kinds = m.config.get("layer_types") or []
    if any((kind == "full_attention") != ((il + 1) % EVERY == 0) for il, kind in enumerate(kinds)):
        raise UnsupportedError(
            f"{where}: 'layer_types': expected full attention in every {EVERY}th layer and only there"
        )
    if m.config.get("sliding_window_pattern", EVERY) != EVERY:
        raise UnsupportedError(f"{where}: 'sliding_window_pattern': expected {EVERY}")
    if m.config.get("attn_logit_softcapping"):
        raise UnsupportedError(f"{where}: 'attn_logit_softcapping' isn't supported")
    n_head, n_embd, scalar = (
        m.integer("num_attention_heads"),
        m.integer("hidden_size"),
        m.config.get("query_pre_attn_scalar"),
    )
    expected = n_embd // n_head if m.integer("num_hidden_layers") == 62 else m.head_dim  # the 27B divides otherwise
    if scalar is not None and scalar != expected:
        raise UnsupportedError(f"{where}: 'query_pre_attn_scalar': found {scalar}, expected {expected}")
    keys: list[tuple[str, Any]] = [("attention.sliding_window", m.integer("sliding_window"))]
    if m.config.get("final_logit_softcapping"):
        keys.append(("final_logit_softcapping", float(m.config["final_logit_softcapping"])))
    return keys


def interleave(n_head: int) -> Change:
    """Rows of Q or K from half-split order, (x_i, x_{i + d/2}) half a head apart, to pairs side by side."""

    def change(w: np.ndarray) -> np.ndarray:
        pairs: np.ndarray = w.reshape(n_head, 2, w.shape[0] // n_head // 2, *w.shape[1:]).swapaxes(1, 2)
        return pairs

    return change


def plus_one(w: np.ndarray) -> np.ndarray:
    """Gemma's norms scale by 1 + weight; files hold the sum."""
    out: np.ndarray = w + np.float32(1)
    return out


def _norms(m: TextModel) -> Iterable[tuple[str, str]]:
    """(target, source) of the norms of a layer."""
    yield "attn_norm", "input_layernorm"
    if m.arch == "gemma3":
        yield "post_attention_norm", "post_attention_layernorm"
        yield "ffn_norm", "pre_feedforward_layernorm"
        yield "post_ffw_norm", "post_feedforward_layernorm"
    else:
        yield "ffn_norm", "post_attention_layernorm"
    if m.arch in ("qwen3", "qwen3vl", "gemma3"):
        yield "attn_q_norm", "self_attn.q_norm"
        yield "attn_k_norm", "self_attn.k_norm"


def _layer(m: TextModel, mapping: Mapping, il: int) -> None:
    source, target = f"layers.{il}.", f"blk.{il}."
    n_head = m.integer("num_attention_heads")
    heads = {"q": n_head, "k": m.integer("num_key_value_heads", n_head)}
    heads["v"] = heads["k"]
    norm = plus_one if m.arch == "gemma3" else None
    for new, old in _norms(m):
        mapping.take(f"{target}{new}.weight", f"{source}{old}.weight", change=norm)
    for name, n in heads.items():
        change = interleave(n) if m.arch == "llama" and name != "v" else None
        for part in ("weight", "bias"):
            old = f"{source}self_attn.{name}_proj.{part}"
            needed = part == "weight" or m.arch in ("qwen2", "qwen2vl")
            if needed or mapping.has(old):
                mapping.take(f"{target}attn_{name}.{part}", old, change=change, rows=n * m.head_dim)
    pairs = [("attn_output", "self_attn.o_proj")]
    pairs += [(f"ffn_{name}", f"mlp.{name}_proj") for name in ("gate", "up", "down")]
    mapping.take_all((target + new, source + old) for new, old in pairs)


def text_tensors(m: TextModel) -> list[Output]:
    """All tensors of the text file, lazily."""
    mapping = Mapping(m.where, m.tensors.items())
    mapping.drop(lambda name: name.endswith("rotary_emb.inv_freq"))
    mapping.take("token_embd.weight", "embed_tokens.weight")
    for il in range(m.integer("num_hidden_layers")):
        _layer(m, mapping, il)
    mapping.take("output_norm.weight", "norm.weight", change=plus_one if m.arch == "gemma3" else None)
    if m.tied is True:
        mapping.drop(lambda name: name == "lm_head.weight")
    elif mapping.has("lm_head.weight") or m.tied is False:
        mapping.take("output.weight", "lm_head.weight", rows=m.n_vocab)
    return mapping.finish()
