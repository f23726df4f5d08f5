"""The Markdown of a summary: one table for each protocol and budget, and the paired comparisons in words."""

import math
from collections.abc import Sequence
from typing import Any

WORDS = {
    "inside": "question inside the compressed prompt",
    "after": "question after compression, the context compressed without knowing it",
}


def percent(x: float) -> str:
    return f"{100 * x:.1f}"


def interval(triple: Sequence[float | None], scale: float = 100, digits: int = 1) -> str:
    """A difference with its interval; bold where the interval excludes zero. The difference alone where there is no
    interval."""
    d, low, high = (scale * x if x is not None else math.nan for x in triple)
    if math.isnan(low):
        return f"{d:+.{digits}f}"
    text = f"{d:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def line(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def table(rows: list[dict[str, Any]], full: dict[str, Any], judged: bool) -> str:
    tasks = list(full["accuracy"])
    kinds = [] if judged or len(full["kl_by_task"]) == 1 else list(full["kl_by_task"])
    head = ["policy", "mix", "rows", "KB"]
    head += [*tasks, "mean", "against its base", "against full"] if judged else []
    head += [*(f"KL {t}" for t in kinds), "KL", "KL against base", "NLL", "same answer", "evict ms"]
    peak = any("peak_bytes" in r for r in rows)
    head += ["peak KB"] if peak else []
    out = [line(head), line(["---"] * 2 + ["---:"] * (len(head) - 2))]
    for r in [full, *rows]:
        cells = [r["policy"], "" if r["policy"] in ("full", "random", "streaming") else r["mix"]]
        cells += [f"{r['rows']:.1f}", f"{r['bytes'] / 1000:.0f}"]
        if judged:
            cells += [percent(r["accuracy"][t]) for t in tasks] + [percent(r["mean"])]
            cells += [interval(r[k]["right"]) if k in r else "" for k in ("base", "full")]
        cells += [f"{r['kl_by_task'][t]:.4f}" for t in kinds]
        cells += [f"{r['kl']:.4f}", interval(r["base"]["kl"], 1, 4) if "base" in r else "", f"{r['nll']:.3f}"]
        cells += [percent(r["same"]), f"{r['evict_ms']:.1f}"]
        cells += [f"{r['peak_bytes'] / 1000:.0f}" if "peak_bytes" in r else ""] if peak else []
        out.append(line(cells))
    return "\n".join(out)


def against_mixkv(rows: list[dict[str, Any]], judged: bool) -> list[str]:
    """The other mixes beside MixKV on the same policy and pictures; nothing where there is none of them."""
    if not any("mixkv" in r for r in rows):
        return []
    head = ["policy", "mix", *(["accuracy against mixkv", "McNemar's p"] if judged else []), "KL against mixkv"]
    out = [line(head), line(["---"] * 2 + ["---:"] * (len(head) - 2))]
    for r in (r for r in rows if "mixkv" in r):
        cells = [interval(r["mixkv"]["right"]), f"{r['mixkv']['p']:.2g}"] if judged else []
        out.append(line([r["policy"], r["mix"], *cells, interval(r["mixkv"]["kl"], 1, 4)]))
    return ["\n".join(out), ""]


def overview(rows: list[dict[str, Any]], full: dict[str, Any], judged: bool) -> str:
    """All budgets side by side: accuracy / KL, the accuracy (or, where nothing is judged, the KL) bold where the
    interval says better than the base, in italics where it says worse."""
    budgets = list(dict.fromkeys(r["budget"] for r in rows if r["policy"] != "full"))
    out = [line(["policy", "mix", *budgets]), line(["---"] * 2 + ["---:"] * len(budgets))]
    arms: dict[tuple[str, str], dict[str, str]] = {}
    for r in (r for r in rows if r["policy"] != "full"):
        cell = percent(r["mean"]) if judged else f"{r['kl']:.3f}"
        if "base" in r:
            difference = r["base"]["right" if judged else "kl"]
            low, high = ((x or 0.0) * (1 if judged else -1) for x in difference[1:])  # without an interval neither
            cell = f"**{cell}**" if min(low, high) > 0 else f"*{cell}*" if max(low, high) < 0 else cell
        mix = "" if r["policy"] in ("random", "streaming") else r["mix"]
        arms.setdefault((r["policy"], mix), {})[r["budget"]] = cell + (f" / {r['kl']:.3f}" if judged else "")
    out += [line([*arm, *(cells.get(b, "") for b in budgets)]) for arm, cells in arms.items()]
    whole = f", whole cache {percent(full['mean'])} %" if judged else ""
    what = "Accuracy, mean of the tasks, % / KL" if judged else "KL"
    return "\n".join([f"**All budgets.** {what}{whole}; bold: better than its base, italics: worse.", "", *out])


def equal_bytes(rows: list[dict[str, Any]]) -> str:
    """What the arms of one budget really hold."""
    used = [r for r in rows if r["policy"] != "full"]
    most, least = max(used, key=lambda r: r["bytes"]), min(used, key=lambda r: r["bytes"])
    return (
        f"Rows a head {min(r['rows'] for r in used):.1f} to {max(r['rows'] for r in used):.1f}; "
        f"bytes held {least['bytes'] / 1000:.0f} KB ({least['policy']}) to {most['bytes'] / 1000:.0f} KB "
        f"({most['policy']}), whole pages counted."
    )


def markdown(summary: dict[str, Any], settings: dict[str, Any], command: str) -> str:
    out = [f"`{command}`", "", settings_line(settings), ""]
    for protocol, rows in summary.items():
        full = next(r for r in rows if r["policy"] == "full")
        judged = bool(full["accuracy"])
        out += [f"### {WORDS[protocol][0].upper()}{WORDS[protocol][1:]}", ""]
        items = ", ".join(f"{t} {n}" for t, n in full["items"].items())
        out += [f"Items: {items}; {full['questions']} questions in all.", ""]
        budgets = dict.fromkeys(r["budget"] for r in rows if r["policy"] != "full")
        if len(budgets) > 1:
            out += [overview(rows, full, judged), ""]
        for budget in budgets:
            at = [r for r in rows if r["budget"] == budget]
            out += [
                f"**Budget {budget}.** {equal_bytes(at)}",
                "",
                table(at, full, judged),
                "",
                *against_mixkv(at, judged),
            ]
        checked = [r for r in rows if "as_in_prefill" in r]
        if checked:
            good = sum(int(r["as_in_prefill"].split()[0]) for r in checked)
            of = sum(int(r["as_in_prefill"].split()[-1]) for r in checked)
            out += [f"Kept rows are those of a session that evicts inside its prefill in {good} of {of} checks.", ""]
    return "\n".join(out)


def settings_line(s: dict[str, Any]) -> str:
    sinks = f", {s['sinks']} first rows kept" if s.get("sinks") else ""
    tables = f", tables {s['tables'][:12]}" if s.get("tables") else ""
    files = f"sha256 {s['model'][:12]}" + (f", mmproj {s['mmproj'][:12]}" if s.get("mmproj") else "")
    return (
        f"Model {s['name']} ({files}), window {s['window']}{sinks}{tables}, Foveal {s['version']}. Accuracies in per "
        "cent; KL and NLL in nats per answer token; differences with 95 % paired bootstrap intervals, bold where zero "
        "is outside."
    )
