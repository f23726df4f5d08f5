"""Mean KL divergence of a quantised model against its own weights in float32: Foveal's and llama.cpp's, same text.

Both engines score the second half of every 512-token chunk, each against its own float32 run, as
`llama-perplexity --kl-divergence` does. Usage:

    python tools/bench/kl.py MODEL.gguf --text FILE --llama-perplexity PATH [--chunks 8] [--threads 2]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

import gguf
import numpy as np

import foveal

CHUNK = 512


def write_f32(source: Path, target: Path) -> None:
    """Writes `source` with every tensor dequantised to float32 and the same metadata."""
    reader = gguf.GGUFReader(str(source))
    writer = gguf.GGUFWriter(str(target), reader.get_field("general.architecture").contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for t in reader.tensors:
        values = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        writer.add_tensor(t.name, values.reshape([int(n) for n in reversed(t.shape)]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis, float64."""
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def chunk_log_probs(model: foveal.Model, ids: list[int]) -> np.ndarray:
    """Log-probabilities [CHUNK / 2, n_vocab] after each id of the chunk's second half, teacher-forced."""
    session = model.session(n_ctx=CHUNK)
    session.prefill(ids[: CHUNK // 2])
    rows = []
    for token in ids[CHUNK // 2 :]:
        session.step(token)
        rows.append(session.logits)
    return log_softmax(np.stack(rows))


def our_kl(model_path: Path, f32_path: Path, text: str, chunks: int, threads: int) -> tuple[float, float, int]:
    """Mean KL, its standard error, and the number of positions."""
    quantised, exact = foveal.Model(model_path, threads=threads), foveal.Model(f32_path, threads=threads)
    ids = quantised.tokenize(text, special=False)[: chunks * CHUNK]
    kls = []
    for c in range(len(ids) // CHUNK):
        part = ids[c * CHUNK : (c + 1) * CHUNK]
        p, q = chunk_log_probs(exact, part), chunk_log_probs(quantised, part)
        kls.append((np.exp(p) * (p - q)).sum(-1))
        print(f"chunk {c + 1}: mean KL {np.concatenate(kls).mean():.6f}", flush=True)
    all_kl = np.concatenate(kls)
    return float(all_kl.mean()), float(all_kl.std() / np.sqrt(len(all_kl))), len(all_kl)


def peer_kl(binary: str, model_path: Path, f32_path: Path, text_path: Path, chunks: int, threads: int) -> float:
    """llama.cpp's mean KL."""
    with tempfile.TemporaryDirectory() as folder:
        base = str(Path(folder) / "base.kld")
        common = ["-f", str(text_path), "-c", str(CHUNK), "-b", str(CHUNK), "--chunks", str(chunks), "-t", str(threads)]
        common += ["--kl-divergence-base", base]
        subprocess.run([binary, "-m", str(f32_path), *common], check=True, capture_output=True)
        run = [binary, "-m", str(model_path), *common, "--kl-divergence"]
        out = subprocess.run(run, check=True, capture_output=True, text=True)
    found = re.search(r"Mean\s+KLD:\s+([0-9.]+)", out.stdout + out.stderr)
    if not found:
        raise SystemExit("no 'Mean KLD' in llama-perplexity's output")
    return float(found.group(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--llama-perplexity", required=True)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        f32_path = Path(folder) / "f32.gguf"
        write_f32(args.model, f32_path)
        text = args.text.read_text(encoding="utf-8")
        ours, error, n = our_kl(args.model, f32_path, text, args.chunks, args.threads)
        peer = peer_kl(args.llama_perplexity, args.model, f32_path, args.text, args.chunks, args.threads)
    print(f"\n{args.model.name}, {args.text.name}, {n} positions")
    print("| engine | mean KL to its own float32 |\n| --- | ---: |")
    print(f"| Foveal | {ours:.6f} ± {error:.6f} |\n| llama.cpp | {peer:.6f} |\n| ratio | {ours / peer:.3f} |")


if __name__ == "__main__":
    main()
