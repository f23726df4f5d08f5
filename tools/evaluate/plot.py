"""A plot of a summary as SVG: accuracy, or KL where nothing is right or wrong, over rows kept."""

import html
import math
from typing import Any

COLORS = {"snapkv": "#1f77b4", "pyramidkv": "#2ca02c", "adakv": "#d62728", "sparsemm": "#9467bd", "random": "#7f7f7f",
          "streaming": "#bcbd22"}  # fmt: skip
DASHES = {"none": "6 4", "mixkv": ""}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 460, 340, 56, 34, 150, 44


def series(rows: list[dict[str, Any]], kind: str) -> dict[tuple[str, str], list[tuple[float, float]]]:
    out: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for r in rows:
        if r["policy"] != "full" and r["mix"] not in ("vnorm", "keydiff", "fixed"):
            out.setdefault((r["policy"], r["mix"]), []).append((r["rows"], r[kind]))
    return {k: sorted(v) for k, v in out.items()}


def panel(x0: int, rows: list[dict[str, Any]], title: str, kind: str) -> list[str]:
    lines, full = series(rows, kind), next(r for r in rows if r["policy"] == "full")
    xs = sorted({x for points in lines.values() for x, _ in points}) or [1.0]
    high = max([full[kind], *(y for points in lines.values() for _, y in points)]) or 1.0
    low_x, span = math.log(xs[0]), max(1e-9, math.log(xs[-1]) - math.log(xs[0]))
    w, h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return x0 + LEFT + w * (math.log(x) - low_x) / span, TOP + h * (1 - y / (1.05 * high))

    def text(x: float, y: float, words: str, anchor: str = "start") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'

    out = [text(x0 + LEFT, 18, title), f'<path d="M{x0 + LEFT} {TOP}v{h}h{w}" fill="none" stroke="#444"/>']
    for i in range(5):
        y = high * i / 4
        shown = f"{100 * y:.0f} %" if kind == "right" else f"{y:.3g}"
        out.append(text(x0 + LEFT - 6, at(xs[0], y)[1] + 4, shown, "end"))
    last = -math.inf
    for x in xs:  # labels that would run into each other are left out
        if at(x, 0)[0] - last >= 24:
            last = at(x, 0)[0]
            out.append(text(last, TOP + h + 18, f"{x:.0f}", "middle"))
    out.append(text(x0 + LEFT + w / 2, TOP + h + 36, "rows kept per head", "middle"))
    y = at(xs[0], full[kind])[1]
    out.append(f'<path d="M{x0 + LEFT} {y:.1f}h{w}" stroke="#000" stroke-dasharray="2 3" fill="none"/>')
    for i, ((policy, mix), points) in enumerate(lines.items()):
        color, dash = COLORS.get(policy, "#17becf"), DASHES.get(mix, "2 2")
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(*point) for point in points))
        style = f'fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"'
        out.append(f'<polyline points="{path}" {style}/>')
        out += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{color}"/>' for a, b in (at(*point) for point in points)
        ]
        label_y, label_x = TOP + 8 + 16 * i, x0 + WIDTH - RIGHT + 12
        out.append(f'<polyline points="{label_x},{label_y} {label_x + 22},{label_y}" {style}/>')
        out.append(text(label_x + 28, label_y + 4, policy if mix == "none" else f"{policy} {mix}"))
    return out


def svg(summary: dict[str, Any]) -> str:
    """One panel a protocol; the dotted line is the whole cache."""
    out: list[str] = []
    for i, (protocol, rows) in enumerate(summary.items()):
        judged = rows[0]["mean"] is not None
        rows = [r | {"right": r["mean"]} for r in rows]
        title = f"{'accuracy, mean of the tasks' if judged else 'KL to the whole cache'}: question {protocol}"
        out += panel(i * WIDTH, rows, title, "right" if judged else "kl")
    size = f'width="{WIDTH * len(summary)}" height="{HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11"'
    body = "\n".join(out)
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    return f'{start}\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
