"""One item through all arms: one full prefill, then fork(kv) for each arm, and the answers compared."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.compare import kl_divergence
from foveal.errors import UnsupportedError
from foveal.kv import KV
from foveal.model import Model
from foveal.session import Session

from .arms import Arm, Keep
from .items import Item, Question

MARK = "@question@"
Cell = dict[str, Any]


class Frame:
    """The model's chat turn around context and question, as raw parts (the prompt that chat() would build); context
    and completion alone where the model's file has no template."""

    def __init__(self, model: Model, item: Item) -> None:
        self.tokenize = model.tokenize
        content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in item.context]
        images = [p for p in item.context if not isinstance(p, str)]
        turn = [{"role": "user", "content": [*content, {"type": "text", "text": MARK}]}]
        self.plain = False
        try:
            head, self.tail = model.apply_template(turn, images).split(MARK)
        except UnsupportedError:
            if images or not all(q.completion for q in item.questions):
                raise
            self.plain, head, self.tail = True, "".join(map(str, item.context)), ""
        texts = head.split("<__media__>")
        self.head: list[Any] = [texts[0]]
        for image, text in zip(images, texts[1:], strict=True):
            self.head += [image, text]
        self.head = [p for p in self.head if not isinstance(p, str) or p]

    def question(self, q: Question) -> list[Any]:
        if self.plain:
            return [q.completion]
        text = self.tokenize(q.text, special=False)
        return [q.text + self.tail] if text == self.tokenize(q.text) else [*text, self.tail]  # no control tokens in it


class Answer:
    """The full cache's greedy answer: its tokens with the ending one, and the logits that chose each."""

    def __init__(self, session: Session, max_tokens: int) -> None:
        self.tokens: list[int] = []
        self.logits: list[NDArray[np.float32]] = []
        ends = session.model.tokenizer.is_eog
        start = time.perf_counter()
        while len(self.tokens) < max_tokens:
            self.logits.append(session.logits)
            self.tokens.append(int(self.logits[-1].argmax()))
            if ends(self.tokens[-1]):
                break
            if len(self.tokens) < max_tokens:
                session.step(self.tokens[-1])
        self.ms = 1000 * (time.perf_counter() - start) / max(1, len(self.tokens) - 1)


def said(model: Model, tokens: list[int]) -> str:
    ended = bool(tokens) and model.tokenizer.is_eog(tokens[-1])
    return model.detokenize(tokens[:-1] if ended else tokens)


def nll(logits: NDArray[np.float32], token: int) -> float:
    x = logits.astype(np.float64)
    top = x.max()
    return float(np.log(np.exp(x - top).sum()) + top - x[token])


def follow(session: Session, full: Answer, q: Question, first: int, max_tokens: int) -> Cell:
    """The arm along the full cache's answer: KL and NLL of the tokens from `first` on (those before it came out of the
    prefill itself), and its own greedy answer, which leaves the path at the first other choice and is followed to its
    end where it can be judged."""
    kls, nlls, own, same = [], [], None, True
    start, steps = time.perf_counter(), 0
    aside = 0.0
    for i, token in enumerate(full.tokens):
        logits = session.logits
        if i >= first:
            kls.append(kl_divergence(full.logits[i], logits))
            nlls.append(nll(logits, token))
        choice = int(logits.argmax())
        if same and choice != token and q.right is not None:
            began = time.perf_counter()
            own = full.tokens[:i] + finish(session, choice, max_tokens - i)
            aside += time.perf_counter() - began
        same = same and choice == token
        if i + 1 < len(full.tokens):
            session.step(token)
            steps += 1
    ms = 1000 * (time.perf_counter() - start - aside) / max(1, steps)
    return judged(q, session.model, own or full.tokens) | {
        "same": int(same),
        "kl": float(np.mean(kls)) if kls else 0.0,
        "nll": float(np.mean(nlls)) if nlls else 0.0,
        "ms": ms,
    }


def judged(q: Question, model: Model, tokens: list[int]) -> Cell:
    return {} if q.right is None else {"right": int(q.right(said(model, tokens)))}


def finish(session: Session, token: int, most: int) -> list[int]:
    """Greedy tokens from `token` on, on a copy."""
    tokens = [token]
    if most <= 1 or session.model.tokenizer.is_eog(token):
        return tokens
    with session.fork() as copy:
        while len(tokens) < most and not session.model.tokenizer.is_eog(tokens[-1]):
            copy.step(tokens[-1])
            tokens.append(int(copy.logits.argmax()))
    return tokens


def evict(session: Session, arm: Arm, budget: int, keep: Keep) -> tuple[Session, Any, int, float]:
    """A fork that holds no more rows than the budget on average over all heads: a schedule that overshoots by its
    rounding (pyramidkv, sparsemm) is asked for less until it doesn't."""
    asked = budget
    while True:
        start = time.perf_counter()
        copy = session.fork(arm.kv(asked, keep, session.kv.dtype))
        ms = 1000 * (time.perf_counter() - start)
        stats = copy.kv_stats()
        over = stats.rows_mean - budget
        if over <= 0.05 or asked <= keep.least:
            return copy, stats, asked, ms
        copy.close()
        asked = max(keep.least, asked - max(1, int(over)))


def measure(model: Model, item: Item, arms: list[Arm], protocol: str, keep: Keep, check: bool) -> Cell:
    """protocol "inside": the question belongs to what is compressed (the item's first question); "after": the context
    is compressed first, without knowing the questions. check: also run each arm as a session of its own, whose
    eviction happens inside the prefill, and say whether it keeps the same rows and what it takes at its peak."""
    frame = Frame(model, item)
    inside = protocol == "inside"
    questions = item.questions[:1] if inside else item.questions
    cells: dict[str, Cell] = {}
    with model.session(KV(window=keep.window, dtype="f32")) as context:
        context.prefill(frame.head + (frame.question(questions[0]) if inside else []))
        asked = [context.fork() for _ in questions]
        full = []
        for q, s in zip(questions, asked):
            if not inside:
                s.prefill(frame.question(q))
            rows_asked = s.n_tokens
            full.append(Answer(s, item.max_tokens))
            s.close()
        n = context.n_tokens
        full_right = [judged(q, model, a.tokens) for q, a in zip(questions, full)]
        for arm in arms:
            if arm.policy == "full":
                cells[arm.id] = {
                    "rows": n, "bytes": context.kv_bytes, "evict_ms": 0.0,
                    "answers": [r | {"same": 1, "kl": 0.0, "nll": _own_nll(a, inside), "ms": a.ms}
                                for r, a in zip(full_right, full)],
                }  # fmt: skip
                if check:
                    cells[arm.id]["peak"] = context.kv_peak_bytes
                continue
            copy, stats, rows, ms = evict(context, arm, arm.rows(n, keep), keep)
            with copy:
                cell: Cell = {"rows": stats.rows_mean, "bytes": stats.bytes, "evict_ms": ms, "answers": []}
                if check:
                    prompt = frame.head + (frame.question(questions[0]) if inside else [])
                    cell |= _real_session(model, prompt, arm.kv(rows, keep, "f32"), copy)
                for q, a in zip(questions, full):
                    if inside:
                        cell["answers"].append(follow(copy, a, q, 1, item.max_tokens))
                        continue
                    with copy.fork() as s:
                        s.prefill(frame.question(q))
                        cell["answers"].append(follow(s, a, q, 0, item.max_tokens))
            cells[arm.id] = cell
    return {"task": item.task, "key": item.key, "protocol": protocol, "n": n, "prompt": rows_asked, "cells": cells}


def _own_nll(a: Answer, inside: bool) -> float:
    values = [nll(x, t) for x, t in zip(a.logits, a.tokens)][1 if inside else 0 :]
    return float(np.mean(values)) if values else 0.0


def _real_session(model: Model, prompt: list[Any], kv: KV, copy: Session) -> Cell:
    with model.session(kv) as session:
        session.prefill(prompt)
        equal = all(
            np.array_equal(a, b)
            for il in range(model.info["n_layer"])
            for a, b in zip(session.kept(il), copy.kept(il), strict=True)
        )
        return {"peak": session.kv_peak_bytes, "as_in_prefill": int(equal)}
