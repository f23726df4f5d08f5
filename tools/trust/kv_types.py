"""What the KV types cost: f16, q8_0 and q4_0, whole and under budgets.

kv_types.py MODEL.gguf MMPROJ.gguf [--count 100] [--budgets 64,128]: answers right on test pages, and mean KL of the
answer's tokens against the whole cache in f32. --text-model FILE: the same KL for a text model, 500 tokens of English
read and the next 120 teacher-forced, with the share of equal choices.
"""

import collections
from pydoc_data.topics import topics

import numpy as np
from common import items, load, parser, share

import foveal
from foveal.compare import kl_divergence

TYPES = ("f16", "q8_0", "q4_0")


def forced(session: foveal.Session, tokens: list[int]) -> list[np.ndarray]:
    """Logits in front of each token, and behind the last."""
    rows = [session.logits]
    for token in tokens:
        session.step(token)
        rows.append(session.logits)
    return rows


def greedy(session: foveal.Session, most: int) -> str:
    """The answer that the session gives from here."""
    ids: list[int] = []
    while len(ids) < most:
        token = int(session.logits.argmax())
        if session.model.tokenizer.is_eog(token):
            break
        ids.append(token)
        session.step(token)
    return session.model.detokenize(ids).strip()


def variants(budgets: list[int]) -> list[tuple[str, dict[str, object]]]:
    out = []
    for budget in [None, *budgets]:
        for dtype in TYPES:
            out.append((dtype + (f", budget {budget}" if budget else ""), {"budget": budget, "dtype": dtype}))
    return out


def pictures(args) -> None:
    model, tried = load(args), variants([int(b) for b in args.budgets.split(",")])
    rows: dict[tuple[str, str], list[tuple[bool, float, int]]] = collections.defaultdict(list)
    for kind in args.kinds.split(","):
        for image, [(_, question, answer, _)] in items(kind, args.count, 1):
            head, tail = model.apply_template([{"role": "user", "content": question}]).split(question)
            prompt, ids = [head, image, question + tail], model.tokenize(answer)
            with model.session(foveal.KV(dtype="f32")) as session:
                session.prefill(prompt)
                whole = forced(session, ids)
            for name, options in tried:
                with model.session(foveal.KV(**options)) as session:
                    session.prefill(prompt)
                    held, first = session.kv_bytes, session.fork()
                    found = forced(first, ids)
                    kl = np.mean([kl_divergence(p, q) for p, q in zip(whole, found, strict=True)])
                    rows[kind, name].append((greedy(session, 64) == answer, float(kl), held))
    print("| page | KV | right, % | mean KL, nats | bytes |\n| --- | --- | ---: | ---: | ---: |")
    for (kind, name), results in rows.items():
        right, kl, held = np.array(results, float).T
        print(f"| {kind} | {name} | {share(int(right.sum()), len(right))} | {kl.mean():.4f} | {held.mean():,.0f} |")


def text(path: str, threads: int | None) -> None:
    model = foveal.Model(path, threads=threads)
    ids = model.tokenize(" ".join(topics[k] for k in sorted(topics))[:8000], special=False)[:620]
    with model.session(foveal.KV(dtype="f32")) as session:
        session.prefill(ids[:500])
        whole = forced(session, ids[500:])
    print("| KV | mean KL, nats | equal choices | bytes |\n| --- | ---: | ---: | ---: |")
    for name, options in variants([256]):
        with model.session(foveal.KV(**options)) as session:
            session.prefill(ids[:500])
            found = forced(session, ids[500:])
            kl = np.mean([kl_divergence(p, q) for p, q in zip(whole, found, strict=True)])
            same = np.mean([p.argmax() == q.argmax() for p, q in zip(whole, found, strict=True)])
            print(f"| {name} | {kl:.4f} | {100 * same:.1f} % | {session.kv_bytes:,} |", flush=True)


def main():
    p = parser(__doc__)
    p.add_argument("--text-model")
    args = p.parse_args()
    if args.text_model:
        text(args.text_model, args.threads)
    else:
        pictures(args)


if __name__ == "__main__":
    main()
