"""The speed of a card as a Markdown table for docs/gpu.md; tools/bench/gpu.sh calls it.

python tools/bench/gpu_table.py FOVEAL GPU_LIMITS FOLDER: the program, the built gpu_limits.cu, where the models with
random weights are (made if they aren't). Tests of two shapes in two types: 1.4B and 7B (LLaVA-NeXT-Mistral's).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

LIKE = Path("tests/data/text_llama/model-f16.gguf")
SHAPES = {  # layers, embedding, heads, KV heads, hidden layer
    "1.4B": (28, 1536, 12, 2, 8960),
    "7B": (32, 4096, 32, 8, 14336),
}
LONG, BUDGET = 32000, 64  # rows and budget of MixKV's figure 4


def weights(shape: str) -> int:
    """Numbers in the layers' matrices."""
    layers, embd, heads, kv_heads, ffn = SHAPES[shape]
    return layers * (2 * embd * embd + 2 * embd * (embd // heads * kv_heads) + 3 * embd * ffn)


def prefill_flops(shape: str, rows: int) -> float:
    """Matrices, and the causal half of attention's two products."""
    layers, embd = SHAPES[shape][:2]
    return 2.0 * weights(shape) * rows + 2.0 * layers * embd * rows * rows


def make(folder: Path, shape: str, kind: str) -> Path:
    path = folder / f"random-{shape.lower()}-{kind}.gguf"
    if not path.exists():
        names = ("--layers", "--embd", "--heads", "--kv-heads", "--ffn")
        numbers = [text for pair in zip(names, map(str, SHAPES[shape]), strict=True) for text in pair]
        made = path.with_suffix(".part")
        script = Path(__file__).with_name("make_model.py")
        subprocess.run(
            [sys.executable, script, "text", made, "--like", LIKE, "--type", kind, *numbers],
            check=True,
            stdout=sys.stderr,
        )
        made.rename(path)
    return path


class PeakMemory:
    """The most memory that the card reports as used while a block runs, in bytes, sampled; 0 without nvidia-smi."""

    def __enter__(self) -> PeakMemory:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        if not shutil.which("nvidia-smi"):
            return
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        while not self._stop.wait(0.1):
            found = subprocess.run(query, capture_output=True, text=True)
            if found.stdout.strip().isdigit():
                self.bytes = max(self.bytes, int(found.stdout) << 20)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def bench(program: str, model: Path, *flags: str) -> list[dict[str, Any]]:
    command = [program, "bench", "-m", str(model), "--device", "cuda", "-o", "json", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"gpu_table: {' '.join(command)}: {done.stderr.strip() or done.returncode}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def speed_rows(program: str, folder: Path, card: dict[str, Any]) -> None:
    print("| shape | type | decode, t/s | of the bandwidth | prefill of 2,048, t/s | of the 16-bit peak |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for shape in SHAPES:
        for kind in ("Q4_K_M", "Q8_0"):
            model = make(folder, shape, kind)
            prefill, decode = bench(program, model, "-p", "2048", "-n", "64", "-r", "3")
            share = decode["avg_ts"] * model.stat().st_size / card["bandwidth"]
            peak = prefill_flops(shape, 2048) * prefill["avg_ts"] / 2048 / card["flops"]
            print(
                f"| {shape} | {kind} | {decode['avg_ts']:.1f} | {share:.1%} | {prefill['avg_ts']:.0f} | {peak:.1%} |",
                flush=True,
            )


def depth_rows(program: str, model: Path) -> None:
    budget = ("--kv-budget", "256")
    near, far = bench(program, model, "-p", "0", "-n", "64", "-d", "0,32768", "-r", "2", *budget)
    full = bench(program, model, "-p", "2048", "-n", "0", "-r", "3")[0]
    kept = bench(program, model, "-p", "2048", "-n", "0", "-r", "3", *budget)[0]
    print("\n| 7B, Q4_K_M | |\n| --- | ---: |")
    print(f"| decode at depth 32,768 with budget 256 against depth 0 | {far['avg_ts'] / near['avg_ts'] - 1:+.1%} |")
    print(f"| share of eviction (budget 256) in a prefill of 2,048 | {1 - kept['avg_ts'] / full['avg_ts']:.1%} |")


def figure_four(program: str, model: Path) -> None:
    print(f"\n| 7B, Q4_K_M, {LONG:,} rows, then 128 tokens | total, s | KV now | KV peak | card's memory, peak |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, flags in (("full cache", ()), (f"budget {BUDGET}", ("--kv-budget", str(BUDGET)))):
        with PeakMemory() as peak:
            prefill = bench(program, model, "-p", str(LONG), "-n", "0", "-r", "1", *flags)[0]
            decode = bench(program, model, "-p", "0", "-n", "128", "-d", str(LONG), "-r", "1", *flags)[0]
        seconds = LONG / prefill["avg_ts"] + 128 / decode["avg_ts"]
        sizes = (decode["kv_bytes"], decode["kv_peak_bytes"], peak.bytes)
        print(f"| {name} | {seconds:.1f} | " + " | ".join(f"{b / 2**20:,.0f} MiB" for b in sizes) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("program", "limits", "folder"):
        parser.add_argument(name)
    o = parser.parse_args()
    found = subprocess.run([o.limits], capture_output=True, text=True)
    if found.returncode != 0:
        sys.exit(found.stderr.strip())
    card = json.loads(found.stdout)
    folder = Path(o.folder)
    print(
        f"{card['name']}, compute capability {card['capability']}, {card['memory'] / 2**30:.1f} GiB: measured ", end=""
    )
    print(
        f"{card['bandwidth'] / 1e9:.0f} GB/s read and {card['flops'] / 1e12:.1f} TFLOP/s in 16-bit tiles\n", flush=True
    )
    speed_rows(o.program, folder, card)
    model = make(folder, "7B", "Q4_K_M")
    depth_rows(o.program, model)
    figure_four(o.program, model)


if __name__ == "__main__":
    main()
