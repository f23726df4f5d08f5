"""Writes GGUF models of any shape with random weights, for timing: speed doesn't depend on the values.

    python tools/bench/make_model.py text OUT.gguf --like MODEL.gguf [--type Q8_0 | Q4_K_M] [--layers 28] [--embd 1536]
        [--heads 12] [--kv-heads 2] [--ffn 8960] [--arch llama]
    python tools/bench/make_model.py vision OUT.gguf --tower siglip-b16-512 | clip-l14-336 | qwen2vl --embd 576

`--like` gives the tokenizer (and with it the vocabulary's size).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

# Where a block's half-precision scales lie, and their size: weights then spread by about 0.02, as trained ones do
# (much larger ones drive the softmax into denormals, which are slow).
HALVES = {
    Type.Q8_0: ((0,), 2.7e-4),
    Type.Q4_K: ((0, 2), 1e-4),
    Type.Q6_K: ((208,), 1.5e-5),
    Type.Q4_0: ((0,), 4e-3),
    Type.Q4_1: ((0, 2), 4e-3),
}


def random_blocks(rng: np.random.Generator, rows: int, cols: int, kind: Type) -> np.ndarray:
    """Quantised rows [rows, bytes] with scales of ordinary size."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (rows * cols // elements, size), dtype=np.uint8)
    places, size_of = HALVES[kind]
    for at in places:
        raw[:, at : at + 2] = np.frombuffer(np.float16(size_of).tobytes(), np.uint8)
    return raw.reshape(rows, -1)


def add_matrix(w: gguf.GGUFWriter, rng: np.random.Generator, name: str, rows: int, cols: int, kind: Type) -> None:
    if kind in HALVES:
        w.add_tensor(name, random_blocks(rng, rows, cols, kind), raw_dtype=kind)
    else:
        w.add_tensor(name, (rng.standard_normal((rows, cols), np.float32) * 0.02).astype(np.float16))


def add_ones(w: gguf.GGUFWriter, name: str, n: int) -> None:
    w.add_tensor(name, np.ones(n, np.float32))


def add_zeros(w: gguf.GGUFWriter, name: str, n: int) -> None:
    w.add_tensor(name, np.zeros(n, np.float32))


def finish(w: gguf.GGUFWriter) -> None:
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def copy_tokenizer(w: gguf.GGUFWriter, source: Path) -> int:
    """Copies tokenizer.* keys; returns the vocabulary's size."""
    n_vocab = 0
    for name, field in gguf.GGUFReader(str(source)).fields.items():
        if not name.startswith("tokenizer."):
            continue
        kind = field.types[0]
        value = field.contents()
        w.add_key_value(name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
        n_vocab = len(value) if name == "tokenizer.ggml.tokens" else n_vocab
    return n_vocab


def bumped(layer: int, n: int) -> bool:
    """Whether Q4_K_M gives attn_v and ffn_down of this layer more bits."""
    return layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2


def text(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    w = gguf.GGUFWriter(str(args.out), args.arch)
    w.add_block_count(args.layers)
    w.add_context_length(32768)
    w.add_embedding_length(args.embd)
    w.add_feed_forward_length(args.ffn)
    w.add_head_count(args.heads)
    w.add_head_count_kv(args.kv_heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(1e6)
    if args.arch == "llama":
        w.add_rope_dimension_count(args.embd // args.heads)
    if args.arch == "qwen2vl":
        quarter = args.embd // args.heads // 8
        w.add_rope_dimension_sections([quarter, (3 * quarter) // 2, (3 * quarter) // 2, 0])
    mixed = args.type == "Q4_K_M"
    kind = Type.Q4_K if mixed else Type[args.type]
    better = Type.Q6_K if mixed else kind
    n_vocab = copy_tokenizer(w, args.like)
    kv = args.embd // args.heads * args.kv_heads
    add_matrix(w, rng, "token_embd.weight", n_vocab, args.embd, better)
    add_ones(w, "output_norm.weight", args.embd)
    for il in range(args.layers):
        b = f"blk.{il}."
        more = better if bumped(il, args.layers) else kind
        add_ones(w, b + "attn_norm.weight", args.embd)
        add_ones(w, b + "ffn_norm.weight", args.embd)
        add_matrix(w, rng, b + "attn_q.weight", args.embd, args.embd, kind)
        add_matrix(w, rng, b + "attn_k.weight", kv, args.embd, kind)
        add_matrix(w, rng, b + "attn_v.weight", kv, args.embd, more)
        if args.arch == "qwen2vl":
            for name, rows in (("attn_q", args.embd), ("attn_k", kv), ("attn_v", kv)):
                add_zeros(w, f"{b}{name}.bias", rows)
        add_matrix(w, rng, b + "attn_output.weight", args.embd, args.embd, kind)
        add_matrix(w, rng, b + "ffn_gate.weight", args.ffn, args.embd, kind)
        add_matrix(w, rng, b + "ffn_up.weight", args.ffn, args.embd, kind)
        add_matrix(w, rng, b + "ffn_down.weight", args.embd, args.ffn, more)
    finish(w)


# projector, width, layers, heads, FFN, patch, image, activation key
TOWERS = {
    "siglip-b16-512": ("idefics3", 768, 12, 12, 3072, 16, 512),
    "clip-l14-336": ("mlp", 1024, 23, 16, 4096, 14, 336),
    "qwen2vl": ("qwen2vl_merger", 1280, 32, 16, 5120, 14, 560),
}


def vision(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    projector, d, layers, heads, ffn, patch, image = TOWERS[args.tower]
    w = gguf.GGUFWriter(str(args.out), "clip")
    w.add_type("mmproj")
    w.add_bool("clip.has_vision_encoder", True)
    w.add_string("clip.projector_type", projector)
    numbers = {"image_size": image, "patch_size": patch, "embedding_length": d, "feed_forward_length": ffn}
    numbers |= {"block_count": layers, "attention.head_count": heads, "projection_dim": args.embd}
    for key, value in numbers.items():
        w.add_uint32("clip.vision." + key, value)
    w.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    w.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    w.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    half = Type.F16
    n_pos = (image // patch) ** 2
    kernel = (rng.standard_normal((d, 3, patch, patch), np.float32) * 0.02).astype(np.float16)
    w.add_tensor("v.patch_embd.weight", kernel)
    if projector == "idefics3":
        w.add_bool("clip.use_gelu", True)
        w.add_uint32("clip.vision.projector.scale_factor", 4)
        w.add_uint32("clip.vision.preproc_image_size", 2 * image)  # 2 x 2 tiles and the whole
        add_zeros(w, "v.patch_embd.bias", d)
        w.add_tensor("v.position_embd.weight", np.zeros((n_pos, d), np.float32))
        add_matrix(w, rng, "mm.model.fc.weight", args.embd, d * 16, half)
    elif projector == "mlp":
        w.add_bool("clip.use_gelu", False)
        w.add_bool("clip.has_llava_projector", True)
        w.add_tensor("v.class_embd", np.zeros(d, np.float32))
        w.add_tensor("v.position_embd.weight", np.zeros((n_pos + 1, d), np.float32))
        for name in ("mm.0", "mm.2"):
            add_matrix(w, rng, name + ".weight", args.embd, d if name == "mm.0" else args.embd, half)
            add_zeros(w, name + ".bias", args.embd)
    else:
        w.add_tensor("v.patch_embd.weight.1", kernel)
        for name, rows in (("mm.0", 4 * d), ("mm.2", args.embd)):
            add_matrix(w, rng, name + ".weight", rows, 4 * d, half)
            add_zeros(w, name + ".bias", rows)
    for name in ("v.pre_ln",) if projector == "mlp" else ("v.post_ln",):
        add_ones(w, name + ".weight", d)
        add_zeros(w, name + ".bias", d)
    for il in range(layers):
        b = f"v.blk.{il}."
        for norm in ("ln1", "ln2"):
            add_ones(w, b + norm + ".weight", d)
            add_zeros(w, b + norm + ".bias", d)
        for name, rows, cols in (
            ("attn_q", d, d),
            ("attn_k", d, d),
            ("attn_v", d, d),
            ("attn_out", d, d),
            ("ffn_up", ffn, d),
            ("ffn_down", d, ffn),
        ):
            add_matrix(w, rng, f"{b}{name}.weight", rows, cols, half)
            add_zeros(w, f"{b}{name}.bias", rows)
    finish(w)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    t = kinds.add_parser("text")
    t.add_argument("out", type=Path)
    t.add_argument("--like", type=Path, required=True)
    t.add_argument("--type", choices=["Q8_0", "Q4_K_M", "Q4_0", "Q4_1"], default="Q8_0")
    t.add_argument("--arch", choices=["llama", "qwen2vl"], default="llama")
    for name, value in (("layers", 28), ("embd", 1536), ("heads", 12), ("kv-heads", 2), ("ffn", 8960)):
        t.add_argument(f"--{name}", type=int, default=value)
    v = kinds.add_parser("vision")
    v.add_argument("out", type=Path)
    v.add_argument("--tower", choices=sorted(TOWERS), required=True)
    v.add_argument("--embd", type=int, default=576)
    args = parser.parse_args()
    (text if args.kind == "text" else vision)(args)


if __name__ == "__main__":
    main()
