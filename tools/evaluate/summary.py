"""From the items' results to one row an arm: accuracies, intervals, divergences, rows, bytes, times."""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arms import Arm
from .stats import Values, mcnemar, mean, paired_interval

KINDS = ("right", "same", "kl", "nll")


class Protocol:
    """All results of one protocol, as arrays by arm, task and quantity: one value a picture."""

    def __init__(self, results: list[dict[str, Any]]) -> None:
        self.tasks = list(dict.fromkeys(r["task"] for r in results))
        raw: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for r in sorted(results, key=lambda r: (r["task"], r["key"])):
            for arm, cell in r["cells"].items():
                raw[arm][r["task"]].append(cell)
        self.cells = raw
        self.arms = [a for a in raw if all(len(raw[a][t]) == len(raw["full/none/all"][t]) for t in self.tasks)]

    def values(self, arm: str, kind: str) -> Values:
        """Tasks in which nothing is right or wrong aren't among the values of "right"."""
        return {
            t: np.array([np.mean([x[kind] for x in c["answers"]]) for c in self.cells[arm][t]])
            for t in self.tasks
            if all(kind in x for c in self.cells[arm][t] for x in c["answers"])
        }

    def questions(self, arm: str, kind: str) -> NDArray[np.float64]:
        """One value a question, all tasks one after another."""
        return np.array([x[kind] for t in self.tasks for c in self.cells[arm][t] for x in c["answers"] if kind in x],
                        float)  # fmt: skip

    def numbers(self, arm: str, name: str) -> list[float]:
        return [c[name] for t in self.tasks for c in self.cells[arm][t] if name in c]


def base_of(arm: Arm) -> Arm | None:
    """What an arm is compared with: the same policy without a mix."""
    return None if arm.mix == "none" else Arm(arm.policy, "none", arm.budget)


def row(p: Protocol, arm: Arm) -> dict[str, Any]:
    """One arm's numbers; under full, base and mixkv its paired differences to those arms, as in compare()."""
    right, kl = p.values(arm.id, "right"), p.values(arm.id, "kl")
    out: dict[str, Any] = {
        "policy": arm.policy, "mix": arm.mix, "budget": arm.budget,
        "items": {t: len(v) for t, v in kl.items()},
        "questions": len(p.questions(arm.id, "kl")),
        "accuracy": {t: float(v.mean()) for t, v in right.items()}, "mean": mean(right) if right else None,
        "same": mean(p.values(arm.id, "same")), "kl": mean(kl), "nll": mean(p.values(arm.id, "nll")),
        "rows": float(np.mean(p.numbers(arm.id, "rows"))), "bytes": float(np.mean(p.numbers(arm.id, "bytes"))),
        "evict_ms": float(np.median(p.numbers(arm.id, "evict_ms"))),
        "token_ms": float(np.median(p.questions(arm.id, "ms"))),
        "kl_by_task": {t: float(v.mean()) for t, v in kl.items()},
    }  # fmt: skip
    if peaks := p.numbers(arm.id, "peak"):
        out["peak_bytes"] = float(np.mean(peaks))
    if checks := p.numbers(arm.id, "as_in_prefill"):
        out["as_in_prefill"] = f"{int(sum(checks))} of {len(checks)}"
    mixkv = None if arm.mix in ("none", "mixkv") else Arm(arm.policy, "mixkv", arm.budget)
    against = {"full": Arm("full", "none", "all"), "base": base_of(arm), "mixkv": mixkv}
    if arm.policy == "full":
        return out
    for name, other in against.items():
        if other is None or other.id not in p.arms:
            continue
        out[name] = compare(p, arm.id, other.id)
    return out


def compare(p: Protocol, a: str, b: str) -> dict[str, Any]:
    """a - b on the same pictures: (difference, low, high) of KL and, where there is any, of accuracy, with McNemar's p
    over the questions."""
    out: dict[str, Any] = {"kl": paired_interval(p.values(a, "kl"), p.values(b, "kl"))}
    if right := p.values(a, "right"):
        out["right"] = paired_interval(right, p.values(b, "right"))
        out["p"] = mcnemar(p.questions(a, "right"), p.questions(b, "right"))
    return out


def summary(results: list[dict[str, Any]], arms: list[Arm]) -> dict[str, Any]:
    """protocol -> list of rows, in the order of the arms."""
    out: dict[str, Any] = {}
    for protocol in dict.fromkeys(r["protocol"] for r in results):
        p = Protocol([r for r in results if r["protocol"] == protocol])
        out[protocol] = [row(p, arm) for arm in arms if arm.id in p.arms]
    return out
