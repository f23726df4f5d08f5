"""Hugging Face folders made back from the tiny GGUF files: what the originals of tests/data looked like."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from goldens import DATA

PLAIN = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
GEMMA = PLAIN | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
SIGLIP = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj", "ln1": "layer_norm1", "ln2": "layer_norm2", "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}  # fmt: skip
INTERNVIT = {
    "attn_q": "attention.q_proj", "attn_k": "attention.k_proj", "attn_v": "attention.v_proj",
    "attn_out": "attention.projection_layer", "ln1": "layernorm_before", "ln2": "layernorm_after",
    "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2", "ls1": "lambda_1", "ls2": "lambda_2",
}  # fmt: skip
INTERNVIT_ORIGINAL = {
    "attn_qkv": "attn.qkv", "attn_out": "attn.proj", "ln1": "norm1", "ln2": "norm2", "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2", "ls1": "ls1", "ls2": "ls2",
}  # fmt: skip
QWEN = {"attn_qkv": "attn.qkv", "attn_out": "attn.proj", "ln1": "norm1", "ln2": "norm2"}
QWEN2 = QWEN | {"ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}
QWEN25 = QWEN | {f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")}
QWEN3 = QWEN | {"ffn_up": "mlp.linear_fc1", "ffn_down": "mlp.linear_fc2"}
# family -> prefix of the decoder, name of the last matrix, prefix of encoder layers and their names, other tensors
TEXT = {
    "llava15": ("language_model.model.", "language_model.lm_head"),
    "llavanext": ("language_model.model.", "language_model.lm_head"),
    "internvl3": ("language_model.model.", "language_model.lm_head"),
    "gemma3": ("language_model.model.", "lm_head"),
    "smolvlm": ("model.text_model.", "lm_head"),
    "qwen3vl": ("model.language_model.", "lm_head"),
}
CLIP_REST = {
    "v.class_embd": "vision_tower.vision_model.embeddings.class_embedding",
    "v.patch_embd.weight": "vision_tower.vision_model.embeddings.patch_embedding.weight",
    "v.position_embd.weight": "vision_tower.vision_model.embeddings.position_embedding.weight",
    "v.pre_ln": "vision_tower.vision_model.pre_layrnorm",
    "mm.0": "multi_modal_projector.linear_1",
    "mm.2": "multi_modal_projector.linear_2",
    "model.image_newline": "image_newline",
}


def _siglip_rest(tower: str) -> dict[str, str]:
    return {
        "v.patch_embd": f"{tower}.embeddings.patch_embedding",
        "v.position_embd.weight": f"{tower}.embeddings.position_embedding.weight",
        "v.post_ln": f"{tower}.post_layernorm",
    }


VISION: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "llava15": ("vision_tower.vision_model.encoder.layers.", SIGLIP, CLIP_REST),
    "llavanext": ("vision_tower.vision_model.encoder.layers.", SIGLIP, CLIP_REST),
    "smolvlm": (
        "model.vision_model.encoder.layers.",
        SIGLIP,
        _siglip_rest("model.vision_model") | {"mm.model.fc": "model.connector.modality_projection.proj"},
    ),
    "gemma3": (
        "vision_tower.vision_model.encoder.layers.",
        SIGLIP,
        _siglip_rest("vision_tower.vision_model")
        | {
            "mm.input_projection.weight": "multi_modal_projector.mm_input_projection_weight",
            "mm.soft_emb_norm": "multi_modal_projector.mm_soft_emb_norm",
        },
    ),
    "internvl3": (
        "vision_tower.encoder.layer.",
        INTERNVIT,
        {
            "v.class_embd": "vision_tower.embeddings.cls_token",
            "v.patch_embd": "vision_tower.embeddings.patch_embeddings.projection",
            "v.position_embd.weight": "vision_tower.embeddings.position_embeddings",
            "mm.model.mlp.0": "multi_modal_projector.layer_norm",
            "mm.model.mlp.1": "multi_modal_projector.linear_1",
            "mm.model.mlp.3": "multi_modal_projector.linear_2",
        },
    ),
    "internvl3 original": (
        "vision_model.encoder.layers.",
        INTERNVIT_ORIGINAL,
        {
            "v.class_embd": "vision_model.embeddings.class_embedding",
            "v.patch_embd": "vision_model.embeddings.patch_embedding",
            "v.position_embd.weight": "vision_model.embeddings.position_embedding",
            "mm.model.mlp": "mlp1",
        },
    ),
    "qwen2vl": ("visual.blocks.", QWEN2, {"v.post_ln": "visual.merger.ln_q", "mm": "visual.merger.mlp"}),
    "qwen25vl": ("visual.blocks.", QWEN25, {"v.post_ln": "visual.merger.ln_q", "mm": "visual.merger.mlp"}),
    "qwen3vl": (
        "model.visual.blocks.",
        QWEN3,
        {
            "v.patch_embd.bias": "model.visual.patch_embed.proj.bias",
            "v.position_embd.weight": "model.visual.pos_embed.weight",
            "v.post_ln": "model.visual.merger.norm",
            "mm.0": "model.visual.merger.linear_fc1",
            "mm.2": "model.visual.merger.linear_fc2",
        },
    ),
}
PATCHES = {"qwen2vl": "visual.", "qwen25vl": "visual.", "qwen3vl": "model.visual."}


class Source:
    """A GGUF file's keys and its tensors in float32, by name."""

    def __init__(self, path: Path) -> None:
        import gguf

        reader = gguf.GGUFReader(path)
        self.keys = {name: field.contents() for name, field in reader.fields.items()}
        self.tensors = {t.name: t.data.astype(np.float32) for t in reader.tensors}

    def find(self, ending: str) -> Any:
        """Value of the key that ends so, None without one."""
        return next((v for k, v in self.keys.items() if k.endswith("." + ending) and "tokenizer" not in k), None)


def _renamed(name: str, table: dict[str, str]) -> str | None:
    """`name` with the longest table entry that stands before it (at a dot) replaced."""
    for old in sorted(table, key=len, reverse=True):
        if name == old or name.startswith(old + "."):
            return table[old] + name[len(old) :]
    return None


def _half_split(w: np.ndarray, n_head: int) -> np.ndarray:
    return w.reshape(n_head, w.shape[0] // n_head // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def text_tensors(family: str, source: Source) -> dict[str, np.ndarray]:
    prefix, last = TEXT.get(family, ("model.", "lm_head"))
    arch = source.keys["general.architecture"]
    table = GEMMA if arch == "gemma3" else PLAIN
    heads = {"attn_q": source.find("attention.head_count"), "attn_k": source.find("attention.head_count_kv")}
    whole = {"token_embd": prefix + "embed_tokens", "output_norm": prefix + "norm", "output": last}
    out = {}
    for name, w in source.tensors.items():
        block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
        if block:
            if arch == "llama" and block[2] in heads:
                w = _half_split(w, heads[block[2]])
            renamed = f"{prefix}layers.{block[1]}.{table[block[2]]}.{block[3]}"
        else:
            renamed = _renamed(name, whole) or name
        out[renamed] = w - np.float32(1) if arch == "gemma3" and name.endswith("norm.weight") else w
    return out


def vision_tensors(family: str, source: Source, original: bool = False) -> dict[str, np.ndarray]:
    prefix, table, rest = VISION[family + (" original" if original else "")]
    tensors = dict(source.tensors)
    n_embd = source.find("embedding_length")
    if tensors["v.blk.0.ffn_down.weight"].shape[1] == n_embd:  # older files have the two names exchanged
        swapped = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
        tensors = {re.sub(r"ffn_(up|down)", lambda m: swapped[m[0]], k): w for k, w in tensors.items()}
    if "attn_qkv" in table:
        for name in [k for k in tensors if re.search(r"blk\.\d+\.attn_q\.", k)]:
            parts = [tensors.pop(name.replace("attn_q", f"attn_{x}")) for x in "qkv"]
            tensors[name.replace("attn_q", "attn_qkv")] = np.concatenate(parts)
    if family in PATCHES:
        frames = [tensors.pop(f"v.patch_embd.weight{end}") for end in ("", ".1")]
        tensors["patches"] = np.stack(frames, axis=2)
        rest = rest | {"patches": PATCHES[family] + "patch_embed.proj.weight"}
    deep = sorted({int(k.split(".")[2]) for k in tensors if k.startswith("v.deepstack.")})
    for i, il in enumerate(deep):
        to = f"model.visual.deepstack_merger_list.{i}"
        names = {"norm": "norm", "fc1": "linear_fc1", "fc2": "linear_fc2"}
        rest = rest | {f"v.deepstack.{il}.{old}": f"{to}.{new}" for old, new in names.items()}
    out = {}
    for name, w in tensors.items():
        block = re.fullmatch(r"v\.blk\.(\d+)\.(\w+)\.(weight|bias)", name)
        renamed = f"{prefix}{block[1]}.{table[block[2]]}.{block[3]}" if block else _renamed(name, rest)
        assert renamed is not None, name
        if re.search(r"(lambda_|ls)\d\.weight$", renamed):
            renamed = renamed.removesuffix(".weight")
        if name == "mm.soft_emb_norm.weight":
            w = w - np.float32(1)
        if family == "internvl3" and name in ("v.class_embd", "v.position_embd.weight"):
            w = w.reshape(1, -1, n_embd)
        out[renamed] = w
    if family.startswith("llava"):
        out.update(_unused_layer(source, out, prefix))
    return out


def _unused_layer(source: Source, out: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """CLIP's last layer and last norm, which LLaVA doesn't use and its files don't hold."""
    n = source.find("block_count")
    tower = prefix.removesuffix("encoder.layers.")
    more = {k.replace("layers.0.", f"layers.{n}."): w for k, w in out.items() if k.startswith(f"{prefix}0.")}
    more[tower + "post_layernorm.weight"] = np.ones(source.find("embedding_length"), np.float32)
    more[tower + "post_layernorm.bias"] = np.zeros(source.find("embedding_length"), np.float32)
    return more


MODEL_TYPES = {
    "llava15": "llava", "llavanext": "llava_next", "internvl3": "internvl", "smolvlm": "smolvlm", "gemma3": "gemma3",
    "qwen2vl": "qwen2_vl", "qwen25vl": "qwen2_5_vl", "qwen3vl": "qwen3_vl", "text_mistral": "mistral",
    "text_llama": "llama", "text_qwen2": "qwen2", "text_qwen3": "qwen3", "text_gemma3_text": "gemma3_text",
}  # fmt: skip
INNER_TYPES = {"internvl3": "qwen2", "gemma3": "gemma3_text", "qwen3vl": "qwen3_vl_text", "llavanext": "mistral"}
INNER_TYPES |= {"llava15": "llama", "smolvlm": "llama"}


def text_config(family: str, source: Source) -> dict[str, Any]:
    f = source.find
    embed = source.tensors["token_embd.weight"]
    config: dict[str, Any] = {
        "model_type": INNER_TYPES.get(family, MODEL_TYPES[family]),
        "hidden_size": f("embedding_length"),
        "intermediate_size": f("feed_forward_length"),
        "num_hidden_layers": f("block_count"),
        "num_attention_heads": f("attention.head_count"),
        "num_key_value_heads": f("attention.head_count_kv"),
        "max_position_embeddings": f("context_length"),
        "rms_norm_eps": round(float(f("attention.layer_norm_rms_epsilon")), 9),
        "rope_theta": f("rope.freq_base"),
        "vocab_size": embed.shape[0],
        "tie_word_embeddings": "output.weight" not in source.tensors,
    }
    if f("attention.key_length"):
        config["head_dim"] = f("attention.key_length")
    if family.startswith(("qwen2vl", "qwen25vl", "qwen3vl")):
        sections = f("rope.dimension_sections")[:3]
        config["rope_scaling"] = {"type": "mrope", "rope_type": "default", "mrope_section": [int(n) for n in sections]}
        if family == "qwen3vl":
            config["rope_scaling"]["mrope_interleaved"] = True
    if "gemma3" in family:
        config |= {"sliding_window": f("attention.sliding_window"), "rope_local_base_freq": f("rope.freq_base_swa")}
        config |= {"query_pre_attn_scalar": config["head_dim"], "hidden_activation": "gelu_pytorch_tanh"}
        if f("rope.scaling.factor"):
            config["rope_scaling"] = {"rope_type": "linear", "factor": f("rope.scaling.factor")}
    elif "mistral" in config["model_type"]:
        config["sliding_window"] = None
    return config


def _tower(family: str, source: Source, original: bool) -> dict[str, Any]:
    f = source.find
    qwen = family.startswith("qwen")
    n_ff = int(source.tensors["v.blk.0.ffn_up.bias"].shape[0])
    tower: dict[str, Any] = {"hidden_size": f("embedding_length"), "intermediate_size": n_ff}
    tower["patch_size"] = f("patch_size")
    tower["depth" if qwen else "num_hidden_layers"] = f("vision.block_count")
    tower["num_heads" if qwen else "num_attention_heads"] = f("vision.attention.head_count")
    if not qwen:
        tower["image_size"] = f("image_size")
        tower["layer_norm_eps"] = round(float(f("attention.layer_norm_epsilon")), 9)
    if family.startswith("llava"):
        width = source.tensors["v.blk.0.ffn_down.bias"].shape[0]
        tower |= {"model_type": "clip_vision_model", "num_hidden_layers": f("vision.block_count") + 1}
        tower["intermediate_size"] = width if n_ff == tower["hidden_size"] else n_ff
    elif family == "gemma3":
        tower["model_type"] = "siglip_vision_model"
    elif family == "internvl3":
        tower |= {"model_type": "intern_vit_6b" if original else "internvl_vision", "hidden_act": "gelu"}
        if not original:
            tower |= {"image_size": [f("image_size")] * 2, "patch_size": [f("patch_size")] * 2, "attention_bias": True}
    elif family == "qwen2vl":
        tower |= {"embed_dim": f("embedding_length"), "hidden_size": f("projection_dim"), "mlp_ratio": 2}
    elif family == "qwen25vl":
        every, n = f("n_wa_pattern"), f("vision.block_count")
        tower |= {"out_hidden_size": f("projection_dim"), "fullatt_block_indexes": list(range(every - 1, n, every))}
    elif family == "qwen3vl":
        deep = [i for i, is_deep in enumerate(f("is_deepstack_layers")) if is_deep]
        tower |= {"out_hidden_size": f("projection_dim"), "deepstack_visual_indexes": deep}
        tower["num_position_embeddings"] = int(source.tensors["v.position_embd.weight"].shape[0])
    return tower


def configs(family: str, text: Source, vision: Source | None, original: bool = False) -> dict[str, dict[str, Any]]:
    """config.json and preprocessor_config.json."""
    inner = text_config(family, text)
    if vision is None:
        return {"config.json": inner}
    f = vision.find
    tied = inner["tie_word_embeddings"]
    config: dict[str, Any] = {"model_type": MODEL_TYPES[family], "tie_word_embeddings": tied}
    config["vision_config"] = _tower(family, vision, original)
    pictures: dict[str, Any] = {name: [float(x) for x in f(name)] for name in ("image_mean", "image_std")}
    if family in ("qwen2vl", "qwen25vl"):  # the published ones have no text_config
        config |= {k: v for k, v in inner.items() if k != "model_type"}
    else:
        config["llm_config" if original else "text_config"] = inner
    if family == "llavanext":
        flat = [int(n) for n in f("image_grid_pinpoints")]
        config["image_grid_pinpoints"] = [[flat[i], flat[i + 1]] for i in range(0, len(flat), 2)]
    elif family == "smolvlm":
        config["scale_factor"] = f("projector.scale_factor")
        pictures["size"] = {"longest_edge": f("preproc_image_size")}
    elif family == "gemma3":
        config["mm_tokens_per_image"] = (f("image_size") // f("patch_size") // 4) ** 2
    elif family == "internvl3":
        config["downsample_ratio"] = 1 / f("projector.scale_factor")
        limits = ("min_dynamic_patch", "max_dynamic_patch") if original else ("min_patches", "max_patches")
        target = config if original else pictures
        target |= dict(zip(limits, (f("preproc_min_tiles"), f("preproc_max_tiles")), strict=True))
        if original:
            config["model_type"] = "internvl_chat"
    return {"config.json": config, "preprocessor_config.json": pictures}


def _varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def sentencepiece_model(source: Source) -> bytes:
    """tokenizer.model of the words that aren't padding."""
    keys, out = source.keys, b""
    prefix = keys.get("tokenizer.ggml.add_space_prefix", True)
    rows = zip(*(keys[f"tokenizer.ggml.{k}"] for k in ("tokens", "scores", "token_type")), strict=True)
    for text, score, kind in rows:
        if kind == 5:
            break
        piece = _field(1, text.encode()) + b"\x15" + np.float32(score).tobytes()
        out += _field(1, piece + b"\x18" + _varint(kind))
    return out + _field(2, b"\x18\x02") + _field(3, _field(1, b"identity") + b"\x18" + _varint(int(prefix)))


def _merges_of_scores(words: dict[str, float]) -> list[list[str]]:
    """Pairs in the order in which SentencePiece would merge them."""
    merges = []
    for word in sorted((w for w in words if len(w) > 1), key=lambda w: -words[w]):
        merges += [[word[:i], word[i:]] for i in range(1, len(word)) if word[:i] in words and word[i:] in words]
    return merges


SPLITS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def tokenizer_json(source: Source) -> dict[str, Any]:
    keys = source.keys
    words, kinds = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    added = [
        {"id": i, "content": w, "special": k == 3, "normalized": False, "lstrip": False, "rstrip": False,
         "single_word": False}
        for i, (w, k) in enumerate(zip(words, kinds, strict=True)) if k in (2, 3, 4)
    ]  # fmt: skip
    vocab = {w: i for i, (w, k) in enumerate(zip(words, kinds, strict=True)) if k != 5}
    out: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    if keys["tokenizer.ggml.model"] == "gpt2":
        plain = {w: i for w, i in vocab.items() if kinds[i] == 1}
        merges = [m.split(" ") for m in keys["tokenizer.ggml.merges"]]
        out["model"] = {"type": "BPE", "vocab": plain, "merges": merges, "byte_fallback": False}
        pre = keys["tokenizer.ggml.pre"]
        last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pre not in SPLITS}
        if pre in SPLITS:
            cut = {"type": "Split", "pattern": {"Regex": SPLITS[pre]}, "behavior": "Isolated", "invert": False}
            out["normalizer"] = {"type": "NFC"}
        else:
            cut = {"type": "Digits", "individual_digits": True}
        out["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [cut, last]}
        out["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        return out
    scores = dict(zip(words, keys["tokenizer.ggml.scores"], strict=True))
    pieces = {w: scores[w] for w, i in vocab.items() if kinds[i] == 1}
    model = {"type": "BPE", "vocab": vocab, "merges": _merges_of_scores(pieces), "byte_fallback": True}
    out["model"] = model | {"unk_token": "<unk>", "fuse_unk": True}
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]
    if keys.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, {"type": "Prepend", "prepend": "\u2581"})
    out["normalizer"] = {"type": "Sequence", "normalizers": steps}
    bos = words[keys["tokenizer.ggml.bos_token_id"]]
    single = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {bos: {"id": bos, "ids": [keys["tokenizer.ggml.bos_token_id"]], "tokens": [bos]}}
    out["post_processor"] = {"type": "TemplateProcessing", "single": single, "special_tokens": special}
    out["post_processor"]["pair"] = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return out


def write_folder(family: str, folder: Path, *, original: bool = False, model_file: bool = False) -> Path:
    """Writes the folder. `original`: InternVL as its authors name things; `model_file`: tokenizer.model instead of
    tokenizer.json."""
    from safetensors.numpy import save_file

    text = Source(DATA / family / "model-f16.gguf")
    mmproj = DATA / family / "mmproj-f16.gguf"
    vision = Source(mmproj) if mmproj.exists() else None
    files: dict[str, Any] = dict(configs(family, text, vision, original))
    keys = text.keys
    words = keys["tokenizer.ggml.tokens"]
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    tokens = {
        f"{short}_token": words[keys[f"tokenizer.ggml.{name}_token_id"]]
        for short, name in named.items()
        if f"tokenizer.ggml.{name}_token_id" in keys
    }
    files["tokenizer_config.json"] = tokens | {"chat_template": keys.get("tokenizer.chat_template")}
    if not model_file:
        files["tokenizer.json"] = tokenizer_json(text)
        files["tokenizer_config.json"]["tokenizer_class"] = "PreTrainedTokenizerFast"
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    if model_file:
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(text))
    parts = [text_tensors(family, text)] + ([vision_tensors(family, vision, original)] if vision else [])
    weight_map = {}
    for i, tensors in enumerate(parts):
        name = f"model-{i + 1:05}-of-{len(parts):05}.safetensors"
        stored = {
            k: np.ascontiguousarray(w.astype(np.float16) if w.ndim > 1 and "norm" not in k else w)
            for k, w in tensors.items()
        }
        save_file(stored, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder
