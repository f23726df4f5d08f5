"""Picture encoders: config.json and preprocessor_config.json to clip.* keys, names to names; one function a family."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError, FormatError, UnsupportedError
from .checkpoint import Stored, find_json
from .mapping import Mapping, Output
from .text import plus_one

Keys = list[tuple[str, Any]]
# Where the parts of an encoder stand, in all versions -> one name.
PREFIXES = (
    ("model.vision_tower.vision_model.", "tower."),
    ("vision_tower.vision_model.", "tower."),
    ("model.vision_tower.", "tower."),
    ("vision_tower.", "tower."),
    ("model.vision_model.", "tower."),
    ("vision_model.", "tower."),
    ("model.visual.", "tower."),
    ("visual.", "tower."),
    ("model.multi_modal_projector.", "projector."),
    ("multi_modal_projector.", "projector."),
    ("mlp1.", "projector."),
    ("model.connector.", "projector."),
    ("connector.", "projector."),
    ("model.image_newline", "image_newline"),
    ("image_newline", "image_newline"),
)
# Defaults of the original configurations, by the vision part's model_type.
DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224, "patch_size": 32,
        "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu",
    },
    "siglip_vision_model": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224, "patch_size": 16,
        "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh",
    },
    "idefics3": {
        "hidden_size": 1152, "num_hidden_layers": 12, "num_attention_heads": 16, "image_size": 224, "patch_size": 32,
        "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh",
    },
    "internvl": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 448, "patch_size": 14,
        "layer_norm_eps": 1e-6, "hidden_act": "gelu",
    },
    "qwen2_vl": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2},
    "qwen2_5_vl": {
        "hidden_size": 3584, "depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2,
        "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "qwen3_vl": {
        "hidden_size": 1152, "depth": 27, "num_heads": 16, "patch_size": 16, "spatial_merge_size": 2,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
    },
}  # fmt: skip


def vision_name(name: str) -> str | None:
    """A tensor's name in one spelling, None when it isn't the encoder's."""
    for prefix, short in PREFIXES:
        if name.startswith(prefix):
            return short + name[len(prefix) :]
    return None


@dataclass
class VisionModel:
    """The encoder of a folder."""

    where: str
    kind: str  # model_type of the whole
    config: dict[str, Any]  # config.json
    tower: dict[str, Any]  # its vision part with defaults
    pictures: dict[str, Any]  # preprocessor_config.json
    n_text: int  # embedding width of the text model
    map: Mapping

    def value(self, name: str, *alternatives: str) -> Any:
        found = next((self.tower[k] for k in (name, *alternatives) if self.tower.get(k) is not None), None)
        if isinstance(found, list) and found and name in ("image_size", "patch_size"):
            found = found[0]
        if found is None:
            raise FormatError(f"{self.where}: config.json: vision_config has no '{name}'")
        return found

    def integer(self, name: str, *alternatives: str) -> int:
        value = self.value(name, *alternatives)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise FormatError(
                f"{self.where}: config.json: vision_config '{name}': found {value!r:.60}, expected an integer"
            )
        return value

    def refuse(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"{self.where}: config.json: {what}")


def _common(m: VisionModel, projector: str, eps: float, *, image_size: int, blocks: int, n_ff: int) -> Keys:
    for key in ("image_mean", "image_std"):
        value = m.pictures.get(key)
        if not isinstance(value, list) or len(value) != 3:
            raise FormatError(f"{m.where}: preprocessor_config.json: '{key}': found {value!r:.60}, expected 3 numbers")
    return [
        ("clip.has_vision_encoder", True),
        ("clip.projector_type", projector),
        ("clip.vision.projection_dim", m.n_text),
        ("clip.vision.image_size", image_size),
        ("clip.vision.patch_size", m.integer("patch_size")),
        ("clip.vision.embedding_length", m.integer("embed_dim", "hidden_size")),
        ("clip.vision.feed_forward_length", n_ff),
        ("clip.vision.block_count", blocks),
        ("clip.vision.attention.head_count", m.integer("num_heads", "num_attention_heads")),
        ("clip.vision.attention.layer_norm_epsilon", eps),
        ("clip.vision.image_mean", [float(x) for x in m.pictures["image_mean"]]),
        ("clip.vision.image_std", [float(x) for x in m.pictures["image_std"]]),
    ]


def _activation(m: VisionModel, name: str) -> Keys:
    """GELU in either form is one key; the projector implies which."""
    if name == "quick_gelu":
        return []
    if name in ("gelu", "gelu_pytorch_tanh"):
        return [("clip.use_gelu", True)]
    raise m.refuse(f"activation {name!r:.40} isn't supported")


def _siglip_layers(m: VisionModel, n: int) -> None:
    """CLIP's and SigLIP's encoder layers."""
    pairs = [(f"attn_{x}", f"self_attn.{x}_proj") for x in ("q", "k", "v")]
    pairs += [("attn_out", "self_attn.out_proj"), ("ln1", "layer_norm1"), ("ln2", "layer_norm2")]
    pairs += [("ffn_up", "mlp.fc1"), ("ffn_down", "mlp.fc2")]
    for il in range(n):
        m.map.take_all((f"v.blk.{il}.{new}", f"tower.encoder.layers.{il}.{old}") for new, old in pairs)


def _siglip_tower(m: VisionModel) -> None:
    m.map.drop(lambda name: name.startswith("tower.head.") or name.endswith("position_ids"))
    m.map.take_all([("v.patch_embd", "tower.embeddings.patch_embedding")])
    m.map.take("v.position_embd.weight", "tower.embeddings.position_embedding.weight")
    _siglip_layers(m, m.integer("num_hidden_layers"))
    m.map.take_all([("v.post_ln", "tower.post_layernorm")])


def _llava(m: VisionModel) -> Keys:
    if m.tower.get("model_type") != "clip_vision_model":
        raise m.refuse(f"LLaVA with a vision tower {m.tower.get('model_type')!r:.40} isn't supported, only CLIP")
    if m.config.get("vision_feature_select_strategy", "default") != "default":
        raise m.refuse("'vision_feature_select_strategy' other than 'default' isn't supported")
    if m.config.get("projector_hidden_act", "gelu") != "gelu":
        raise m.refuse("'projector_hidden_act' other than 'gelu' isn't supported")
    n_layer, width = m.integer("num_hidden_layers"), m.integer("hidden_size")
    chosen = m.config.get("vision_feature_layer", -2)
    layers = [i if i >= 0 else n_layer + 1 + i for i in (chosen if isinstance(chosen, list) else [chosen])]
    if not layers or not all(0 <= i <= n_layer for i in layers) or max(layers) == 0:
        raise m.refuse(f"'vision_feature_layer': found {chosen!r:.40}, expected layers of {n_layer}")
    blocks = max(layers)  # what comes after is never used
    m.map.drop(lambda name: name.endswith("position_ids") or name.startswith("tower.post_layernorm."))
    unused = tuple(f"tower.encoder.layers.{il}." for il in range(blocks, n_layer))
    m.map.drop(lambda name: name.startswith(unused) if unused else False)
    n_ff = m.map.shape("tower.encoder.layers.0.mlp.fc1.weight")[0]
    m.map.take("v.class_embd", "tower.embeddings.class_embedding", shape=(width,))
    m.map.take("v.patch_embd.weight", "tower.embeddings.patch_embedding.weight")
    m.map.take("v.position_embd.weight", "tower.embeddings.position_embedding.weight")
    m.map.take_all([("v.pre_ln", "tower.pre_layrnorm")])
    _siglip_layers(m, blocks)
    m.map.take_all([("mm.0", "projector.linear_1"), ("mm.2", "projector.linear_2")])
    size = m.integer("image_size")
    keys = _common(m, "mlp", float(m.value("layer_norm_eps")), image_size=size, blocks=blocks, n_ff=n_ff)
    keys += [("clip.has_llava_projector", True), ("clip.vision.feature_layer", layers)]
    keys += _activation(m, str(m.value("hidden_act")))
    if m.kind == "llava_next":
        m.map.take("v.image_newline", "image_newline")
        points = m.config.get("image_grid_pinpoints") or m.pictures.get("image_grid_pinpoints")
        if not isinstance(points, list) or not points:
            raise FormatError(f"{m.where}: config.json: 'image_grid_pinpoints' is missing")
        keys.append(("clip.vision.image_grid_pinpoints", [int(n) for pair in points for n in pair]))
        keys.append(("clip.vision.image_aspect_ratio", "anyres"))
        keys.append(("clip.vision.mm_patch_merge_type", "spatial_unpad"))
    return keys


def _idefics3(m: VisionModel) -> Keys:
    n_ff = m.map.shape("tower.encoder.layers.0.mlp.fc1.weight")[0]
    _siglip_tower(m)
    m.map.take("mm.model.fc.weight", "projector.modality_projection.proj.weight")
    blocks, size = m.integer("num_hidden_layers"), m.integer("image_size")
    keys = _common(m, "idefics3", float(m.value("layer_norm_eps")), image_size=size, blocks=blocks, n_ff=n_ff)
    longest = (m.pictures.get("size") or {}).get("longest_edge", size * 4)
    return [
        *keys,
        *_activation(m, str(m.value("hidden_act"))),
        ("clip.vision.projector.scale_factor", int(m.config.get("scale_factor") or 2)),
        ("clip.vision.preproc_image_size", int(longest)),
    ]


def _gemma3(m: VisionModel) -> Keys:
    n_ff = m.map.shape("tower.encoder.layers.0.mlp.fc1.weight")[0]
    _siglip_tower(m)
    m.map.take("mm.input_projection.weight", "projector.mm_input_projection_weight")  # used transposed: as it lies
    m.map.take("mm.soft_emb_norm.weight", "projector.mm_soft_emb_norm.weight", change=plus_one)
    blocks, size = m.integer("num_hidden_layers"), m.integer("image_size")
    keys = _common(m, "gemma3", float(m.value("layer_norm_eps")), image_size=size, blocks=blocks, n_ff=n_ff)
    tokens = m.config.get("mm_tokens_per_image") or m.pictures.get("image_seq_length") or 256
    pool = size // m.integer("patch_size") // math.isqrt(int(tokens))
    if pool != 4:
        keys.append(("clip.vision.projector.scale_factor", pool))
    return keys + _activation(m, str(m.value("hidden_act")))


# (target, name in Hugging Face's version, name in the original) of InternViT's layers.
INTERNVIT = (
    ("attn_out", "attention.projection_layer", "attn.proj"),
    ("ln1", "layernorm_before", "norm1"),
    ("ln2", "layernorm_after", "norm2"),
    ("ffn_up", "mlp.fc1", "mlp.fc1"),
    ("ffn_down", "mlp.fc2", "mlp.fc2"),
)


def _internvl_layer(m: VisionModel, native: bool, il: int) -> None:
    target = f"v.blk.{il}."
    source = f"tower.encoder.layer.{il}." if native else f"tower.encoder.layers.{il}."
    if native:
        m.map.take_all((f"{target}attn_{x}", f"{source}attention.{x}_proj") for x in ("q", "k", "v"))
    else:
        for part in ("weight", "bias"):
            if part == "weight" or m.map.has(f"{source}attn.qkv.bias"):
                names = tuple(f"{target}attn_{x}.{part}" for x in ("q", "k", "v"))
                m.map.split_rows(names, f"{source}attn.qkv.{part}")
    m.map.take_all((target + new, source + (hf if native else original)) for new, hf, original in INTERNVIT)
    for x in ("q", "k"):
        for name in (f"{source}attention.{x}_norm", f"{source}attn.{x}_norm"):
            if m.map.has(f"{name}.weight"):
                m.map.take(f"{target}attn_{x}_norm.weight", f"{name}.weight")
    for i in (1, 2):
        m.map.take(f"{target}ls{i}.weight", f"{source}lambda_{i}", f"{source}ls{i}")


def _internvl(m: VisionModel) -> Keys:
    native = m.map.has("tower.embeddings.cls_token")
    width, size, blocks = m.integer("hidden_size"), m.integer("image_size"), m.integer("num_hidden_layers")
    positions = (size // m.integer("patch_size")) ** 2 + 1
    first = "tower.encoder.layer.0." if native else "tower.encoder.layers.0."
    n_ff = m.map.shape(f"{first}mlp.fc1.weight")[0]
    m.map.drop(lambda name: name.endswith("mask_token"))
    m.map.take("v.class_embd", "tower.embeddings.cls_token", "tower.embeddings.class_embedding", shape=(width,))
    patches = "patch_embeddings.projection" if native else "patch_embedding"
    m.map.take_all([("v.patch_embd", f"tower.embeddings.{patches}")])
    table = ("tower.embeddings.position_embeddings", "tower.embeddings.position_embedding")
    found = m.map.shape(*table)
    if found[-2:] != (positions, width):
        raise FormatError(f"{m.where}: tensor '{table[0]}': found shape {list(found)}, expected {[positions, width]}")
    m.map.take("v.position_embd.weight", *table, shape=(positions, width))
    for il in range(blocks):
        _internvl_layer(m, native, il)
    m.map.take_all(
        (f"mm.model.mlp.{i}", f"projector.{name if native else i}")
        for i, name in ((0, "layer_norm"), (1, "linear_1"), (3, "linear_2"))
    )
    keys = _common(m, "internvl", float(m.value("layer_norm_eps")), image_size=size, blocks=blocks, n_ff=n_ff)
    least = m.config.get("min_dynamic_patch") or m.pictures.get("min_patches") or 1
    most = m.config.get("max_dynamic_patch") or m.pictures.get("max_patches") or 12
    return [
        *keys,
        *_activation(m, str(m.value("hidden_act"))),
        ("clip.vision.projector.scale_factor", round(1 / float(m.config.get("downsample_ratio") or 0.5))),
        ("clip.vision.preproc_min_tiles", int(least)),
        ("clip.vision.preproc_max_tiles", int(most)),
    ]


def _limits(m: VisionModel) -> Keys:
    """Smallest and largest pictures in pixels, where the folder says."""
    size = m.pictures.get("size") or {}
    limits = {
        "min": m.pictures.get("min_pixels") or size.get("shortest_edge"),
        "max": m.pictures.get("max_pixels") or size.get("longest_edge"),
    }
    return [(f"clip.vision.image_{name}_pixels", int(value)) for name, value in limits.items() if value]


def _qwen_blocks(m: VisionModel, pairs: list[tuple[str, str]], *, fused: bool) -> None:
    frames = ("v.patch_embd.weight", "v.patch_embd.weight.1")
    m.map.split_frames(frames, "tower.patch_embed.proj.weight")
    for il in range(m.integer("depth")):
        source, target = f"tower.blocks.{il}.", f"v.blk.{il}."
        if fused:
            m.map.take_all([(f"{target}attn_qkv", f"{source}attn.qkv")])
        else:
            for part in ("weight", "bias"):
                names = tuple(f"{target}attn_{x}.{part}" for x in ("q", "k", "v"))
                m.map.split_rows(names, f"{source}attn.qkv.{part}")
        every = [("attn_out", "attn.proj"), ("ln1", "norm1"), ("ln2", "norm2"), *pairs]
        m.map.take_all((target + new, source + old) for new, old in every)


def _qwen_merge(m: VisionModel) -> None:
    if m.integer("spatial_merge_size") != 2:
        raise m.refuse(f"'spatial_merge_size': found {m.integer('spatial_merge_size')}, expected 2")


def _qwen2vl(m: VisionModel) -> Keys:
    _qwen_merge(m)
    n_ff = m.map.shape("tower.blocks.0.mlp.fc1.weight")[0]
    _qwen_blocks(m, [("ffn_up", "mlp.fc1"), ("ffn_down", "mlp.fc2")], fused=False)
    m.map.take_all([("v.post_ln", "tower.merger.ln_q"), ("mm.0", "tower.merger.mlp.0"), ("mm.2", "tower.merger.mlp.2")])
    keys = _common(m, "qwen2vl_merger", 1e-6, image_size=560, blocks=m.integer("depth"), n_ff=n_ff)
    return keys + _activation(m, str(m.tower.get("hidden_act") or "quick_gelu")) + _limits(m)


def _qwen25vl(m: VisionModel) -> Keys:
    _qwen_merge(m)
    full = m.value("fullatt_block_indexes")
    every = int(full[0]) + 1
    blocks = m.integer("depth")
    if full != list(range(every - 1, blocks, every)):
        raise m.refuse(f"'fullatt_block_indexes': found {full!r:.80}, expected every {every}th")
    if m.tower.get("hidden_act", "silu") != "silu":
        raise m.refuse(f"activation {m.tower['hidden_act']!r:.40} isn't supported")
    n_ff = m.map.shape("tower.blocks.0.mlp.up_proj.weight")[0]
    _qwen_blocks(m, [(f"ffn_{x}", f"mlp.{x}_proj") for x in ("gate", "up", "down")], fused=False)
    m.map.take_all([("v.post_ln", "tower.merger.ln_q"), ("mm.0", "tower.merger.mlp.0"), ("mm.2", "tower.merger.mlp.2")])
    keys = _common(m, "qwen2.5vl_merger", 1e-6, image_size=560, blocks=blocks, n_ff=n_ff)
    keys += [("clip.use_silu", True), ("clip.vision.n_wa_pattern", every)]
    return [*keys, ("clip.vision.window_size", m.integer("window_size")), *_limits(m)]


def _qwen3vl(m: VisionModel) -> Keys:
    _qwen_merge(m)
    n_ff = m.map.shape("tower.blocks.0.mlp.linear_fc1.weight")[0]
    _qwen_blocks(m, [("ffn_up", "mlp.linear_fc1"), ("ffn_down", "mlp.linear_fc2")], fused=True)
    m.map.take("v.patch_embd.bias", "tower.patch_embed.proj.bias")
    m.map.take("v.position_embd.weight", "tower.pos_embed.weight")
    merger = [("v.post_ln", "norm"), ("mm.0", "linear_fc1"), ("mm.2", "linear_fc2")]
    m.map.take_all((new, f"tower.merger.{old}") for new, old in merger)
    deep = [int(il) for il in m.value("deepstack_visual_indexes")]
    for i, il in enumerate(deep):
        parts = [("norm", "norm"), ("fc1", "linear_fc1"), ("fc2", "linear_fc2")]
        m.map.take_all((f"v.deepstack.{il}.{new}", f"tower.deepstack_merger_list.{i}.{old}") for new, old in parts)
    side = math.isqrt(m.integer("num_position_embeddings"))
    blocks = m.integer("depth")
    eps = float((m.config.get("text_config") or {}).get("rms_norm_eps") or 1e-6)
    keys = _common(m, "qwen3vl_merger", eps, image_size=side * m.integer("patch_size"), blocks=blocks, n_ff=n_ff)
    return [
        *keys,
        *_activation(m, str(m.tower.get("hidden_act") or "gelu_pytorch_tanh")),
        ("clip.vision.spatial_merge_size", 2),
        ("clip.vision.is_deepstack_layers", [il in deep for il in range(blocks)]),
        *_limits(m),
    ]


# model_type of the whole -> (defaults of the tower by name, "" for its own model_type; the family)
FAMILIES: dict[str, tuple[str, Callable[[VisionModel], Keys]]] = {
    "llava": ("", _llava),
    "llava_next": ("", _llava),
    "idefics3": ("idefics3", _idefics3),
    "smolvlm": ("idefics3", _idefics3),
    "gemma3": ("siglip_vision_model", _gemma3),
    "internvl": ("internvl", _internvl),
    "internvl_chat": ("internvl", _internvl),
    "qwen2_vl": ("qwen2_vl", _qwen2vl),
    "qwen2_5_vl": ("qwen2_5_vl", _qwen25vl),
    "qwen3_vl": ("qwen3_vl", _qwen3vl),
}


def convert_vision(
    folder: Path, config: dict[str, Any], tensors: dict[str, Stored], n_text: int
) -> tuple[Keys, list[Output]]:
    """Keys and tensors of the mmproj file. `tensors` by vision_name()'s spelling; `n_text`: embedding width of the text
    model. Errors: UnsupportedError (another family), FileError (no preprocessor_config.json), FormatError."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise UnsupportedError(
            f"{folder / 'config.json'}: model_type '{kind}' has no picture encoder that is supported; known are "
            f"{', '.join(FAMILIES)}"
        )
    defaults, family = FAMILIES[kind]
    given = config.get("vision_config") or {}
    tower = {**DEFAULTS.get(defaults or str(given.get("model_type")), {}), **given}
    pictures = find_json(folder, "preprocessor_config.json")
    if not pictures:
        pictures = find_json(folder, "processor_config.json").get("image_processor") or {}
    if not pictures:
        raise FileError(
            f"{folder / 'preprocessor_config.json'}: No such file, and processor_config.json has no pictures"
        )
    m = VisionModel(str(folder), kind, config, tower, pictures, n_text, Mapping(str(folder), tensors.items()))
    keys = family(m)
    return keys, m.map.finish()
