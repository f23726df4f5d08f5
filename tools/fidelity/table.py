"""Makes docs/fidelity.md: every golden case of tests/data, Foveal against the original implementation, and llama.cpp
against it from the same files. Needs the installed package, and for llama.cpp's half `pip install xllamacpp`:

    python tools/fidelity/table.py -o docs/fidelity.md
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "python"))

import foveal  # noqa: E402
from foveal.images import to_pixels  # noqa: E402
from goldens import CASES, DATA, Case, distance, exact, greedy, load, planar  # noqa: E402

HEAD = """# Fidelity

What the original implementation computes, and how far Foveal and llama.cpp are from it **with the same two files**.
Made by `python tools/fidelity/table.py -o docs/fidelity.md`.

The original is transformers 5.23 in float32 on the weights that the F16 files hold exactly; the models are the tiny
ones of `tests/data` (random weights, official-style configurations; random weights are the hard case: logits lie close
together, and nothing hides an error). Foveal {ours} and llama.cpp (package xllamacpp, {theirs}) ran on the CPU, the KV
cache and the encoders' products in float32 (on CPUs with AMX the default is bf16x3, docs/performance.md); llama.cpp
without flash attention, which is its most exact setting.

- **rows**: rows of the prompt, text and picture. Another number means that the pictures were cut or laid out otherwise.
- **pixels**: largest difference of a preprocessed pixel, normalised as the encoder gets it.
- **embeddings**: rows that the encoder gives, |difference| / |original|.
- **logits**: of the first new token, |difference| / |original| after taking the mean away (llama.cpp gives
  log-probabilities, which are logits up to a constant). n/a: it reports none when the first token is half a character.
- **greedy**: how many of 16 greedy tokens come before the first that differs; 16 is all.

| family | case | rows | pixels | embeddings | logits | greedy | llama.cpp: rows | logits | greedy |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
TAIL = """
## Why llama.cpp differs

Text agrees everywhere. With pictures it departs from the original:

- LLaVA and InternVL: the class token stands behind the patches while the position table has it in front, so every patch
  gets its neighbour's position.
- LLaVA: one encoder layer too few with files that don't name the layer; 1.6: no newline embeddings, no unpadding, the
  overview last instead of first; a picture smaller than a tile isn't tiled.
- Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Gemma 3, InternVL's tiles: pictures are fitted with black bars where the original
  stretches them. Sizes that need no resizing agree.
- InternVL: tiles are chosen by LLaVA's rule.
- LLaVA-1.5: it pads to a square as the authors' first program did; transformers, the original here, crops.
- Everywhere: activations are rounded to half precision before they meet F16 weights, and GELU is the tanh form through
  a table of half precision where the original uses the exact one: the 1e-3 that remains where the rules agree.

SmolVLM is the family where both do the same. Foveal follows the original in all of them, from the same files.
"""


def centred(logits: np.ndarray) -> np.ndarray:
    out: np.ndarray = logits.astype(np.float64) - logits.astype(np.float64).mean()
    return out


def until_difference(found: list[int], expected: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), 16))


def ours(case: Case) -> list[str]:
    """The columns of Foveal."""
    model, arrays = load(case.family, vision_precision="f32"), case.arrays
    pixels = embeddings = ""
    if case.images:
        pictures = [to_pixels(path) for path in case.images]
        tiles = [tile for picture in pictures for tile in model._native.preprocess(picture)]
        pixels = f"{max(np.abs(a - b).max() for a, b in zip(tiles, planar(arrays), strict=True)):.1e}"
        rows = [arrays[f"image_embeds_{j}"] for j in range(len(arrays)) if f"image_embeds_{j}" in arrays]
        found = np.concatenate([model._native.encode_image(picture) for picture in pictures])
        embeddings = f"{distance(found, np.concatenate(rows)):.1e}"
    with model.session(exact()) as session:
        session.prefill(case.parts())
        n_rows = len(session.tokens)
        logits = distance(centred(session.logits), centred(arrays["logits_last"]))
        tokens, _ = greedy(session, 16)
    same = until_difference(tokens, arrays["greedy_ids"].tolist())
    return [str(n_rows), pixels, embeddings, f"{logits:.1e}", str(same)]


def peer(family: str) -> dict[str, list[str]]:
    """The columns of llama.cpp for the cases of a family, through the package xllamacpp. Run in a process of its own:
    the library ends the process when it meets what it doesn't expect."""
    import base64
    import os
    import urllib.request
    from importlib.metadata import version

    os.environ["LLAMA_MEDIA_MARKER"] = "<__media__>"
    import xllamacpp as x

    p = x.CommonParams()
    p.model.path = str(DATA / family / "model-f16.gguf")
    mmproj = DATA / family / "mmproj-f16.gguf"
    if mmproj.exists():
        p.mmproj.path = str(mmproj)
    p.n_ctx, p.n_parallel, p.n_gpu_layers, p.warmup, p.fit_params, p.verbosity = 2048, 1, 0, False, False, 0
    p.cpuparams.n_threads = 2
    p.swa_full = True
    p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
    p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = x.Server(p)
    out = {"version": [version("xllamacpp")]}
    for case in (c for c in CASES if c.family == family):
        arrays = case.arrays
        n_vocab = int(arrays["logits_last"].shape[0])
        data = [base64.b64encode(path.read_bytes()).decode() for path in case.images]
        prompt: Any = case.text["prompt"]
        body = {"prompt": {"prompt_string": prompt, "multimodal_data": data} if data else prompt, "n_predict": 16}
        body |= {"temperature": 0, "top_k": 1, "return_tokens": True, "ignore_eos": True, "cache_prompt": False}
        body |= {"n_probs": n_vocab}
        request = urllib.request.Request(
            server.listening_address + "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            reply = json.load(answer)
        logits = np.full(n_vocab, np.nan)
        first = reply["completion_probabilities"][0]
        for entry in first["top_logprobs"]:
            logits[entry["id"]] = entry["logprob"]
        known = np.isfinite(logits)
        far = "n/a"  # a first token that is half a character comes without its probabilities
        if first["id"] == reply["tokens"][0]:
            far = f"{distance(centred(logits[known]), centred(arrays['logits_last'][known])):.1e}"
        same = until_difference(reply["tokens"], arrays["greedy_ids"].tolist())
        out[str(case)] = [str(reply["tokens_evaluated"]), far, str(same)]
    return out


def ask_peer(family: str) -> dict[str, list[str]]:
    """peer() in another process; {} with a note on standard error when it can't be had."""
    done = subprocess.run([sys.executable, __file__, "--peer", family], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(f"{family}: llama.cpp gave nothing: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return {}
    found: dict[str, list[str]] = json.loads(lines[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="file to write; standard output without it")
    parser.add_argument("--peer", metavar="FAMILY", help="only llama.cpp's half of a family, as JSON")
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(peer(options.peer)), flush=True)
        return 0
    rows, release = [], "not run"
    theirs: dict[str, list[str]] = {}
    for family in dict.fromkeys(case.family for case in CASES):
        theirs |= ask_peer(family)
        release = theirs.get("version", [release])[0]
    for case in CASES:
        line = [case.family, case.name or "main", *ours(case), *theirs.get(str(case), ["", "", ""])]
        rows.append(f"| {' | '.join(line)} |")
    text = HEAD.format(ours=foveal.__version__, theirs=release) + "\n".join(rows) + "\n" + TAIL
    if options.output:
        options.output.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
