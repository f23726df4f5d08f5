"""Writes a checkpoint as the GGUF pair that llama.cpp and this project read:
export.py CHECKPOINT OUT_DIR [--type f16|q8_0].

Text: architecture qwen2vl, matrices f16 or q8_0. Pictures: clip with projector qwen2vl_merger, matrices f16. Vectors
stay f32.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
import tokenizer as tk
import torch
from model import IMAGE_MEAN, IMAGE_STD, shape_of

F16, Q8 = gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0
CONTEXT = 4096


def add(writer, name, tensor, kind):
    """A vector as f32, a matrix in the type asked."""
    array = tensor.detach().float().numpy()
    if array.ndim == 1:
        writer.add_tensor(name, array)
    elif kind == F16:
        writer.add_tensor(name, array.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_text(state, shape, path, kind):
    w = gguf.GGUFWriter(path, "qwen2vl")
    w.add_type("model")
    w.add_name("Foveal demo")
    w.add_block_count(shape.layers)
    w.add_context_length(CONTEXT)
    w.add_embedding_length(shape.width)
    w.add_feed_forward_length(shape.ffn)
    w.add_head_count(shape.heads)
    w.add_head_count_kv(shape.heads)
    w.add_rope_dimension_sections([*shape.sections, 0])
    w.add_rope_freq_base(shape.rope_base)
    w.add_layer_norm_rms_eps(shape.eps)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == F16 else gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    tokens, types, merges = tk.gguf_tables()
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_eos_token_id(tk.IM_END)
    w.add_pad_token_id(tk.ENDOFTEXT)
    w.add_bos_token_id(tk.ENDOFTEXT)
    w.add_add_bos_token(False)
    w.add_chat_template(tk.TEMPLATE)
    add(w, "token_embd.weight", state["embed.weight"], kind)
    add(w, "output_norm.weight", state["norm.weight"], kind)
    names = {
        "attn_norm": "attn_norm",
        "ffn_norm": "ffn_norm",
        "q": "attn_q",
        "k": "attn_k",
        "v": "attn_v",
        "out": "attn_output",
        "gate": "ffn_gate",
        "up": "ffn_up",
        "down": "ffn_down",
    }
    for i in range(shape.layers):
        for ours, theirs in names.items():
            for part in ("weight", "bias"):
                if f"blocks.{i}.{ours}.{part}" in state:
                    add(w, f"blk.{i}.{theirs}.{part}", state[f"blocks.{i}.{ours}.{part}"], kind)
    finish(w)


def write_pictures(state, shape, path):
    w = gguf.GGUFWriter(path, "clip")
    w.add_type("mmproj")
    w.add_name("Foveal demo")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_bool("clip.has_vision_encoder", True)
    w.add_string("clip.projector_type", "qwen2vl_merger")
    for key, number in {
        "projection_dim": shape.width,
        "image_size": 320,
        "patch_size": shape.patch,
        "embedding_length": shape.vit_width,
        "feed_forward_length": shape.vit_ffn,
        "block_count": shape.vit_layers,
        "attention.head_count": shape.vit_heads,
        "spatial_merge_size": 2,
    }.items():
        w.add_uint32("clip.vision." + key, number)
    w.add_array("clip.vision.image_mean", IMAGE_MEAN)
    w.add_array("clip.vision.image_std", IMAGE_STD)
    w.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    conv = state["patch.weight"].reshape(shape.vit_width, 3, shape.patch, shape.patch)
    half = (conv / 2).numpy().astype(np.float16)  # two frames' kernels; a still picture goes through both
    w.add_tensor("v.patch_embd.weight", half)
    w.add_tensor("v.patch_embd.weight.1", half)
    names = {
        "ln1": "ln1",
        "ln2": "ln2",
        "q": "attn_q",
        "k": "attn_k",
        "v": "attn_v",
        "out": "attn_out",
        "up": "ffn_up",
        "down": "ffn_down",
    }
    for i in range(shape.vit_layers):
        for ours, theirs in names.items():
            for part in ("weight", "bias"):
                add(w, f"v.blk.{i}.{theirs}.{part}", state[f"blocks.{i}.{ours}.{part}"], F16)
    for ours, theirs in {"post": "v.post_ln", "merge0": "mm.0", "merge2": "mm.2"}.items():
        for part in ("weight", "bias"):
            add(w, f"{theirs}.{part}", state[f"{ours}.{part}"], F16)
    finish(w)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--type", choices=["f16", "q8_0"], default="f16")
    args = p.parse_args()
    state = torch.load(args.checkpoint, map_location="cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    shape = shape_of(state["decoder"])
    write_text(state["decoder"], shape, args.out / "demo-model.gguf", F16 if args.type == "f16" else Q8)
    write_pictures(state["encoder"], shape, args.out / "demo-mmproj.gguf")
    for name in ("demo-model.gguf", "demo-mmproj.gguf"):
        print(f"{args.out / name}: {(args.out / name).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
