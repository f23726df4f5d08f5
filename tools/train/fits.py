"""The fitted parts of the second circuit (pointers.py), and all of it in order: wire_places().

Each is fitted alone, on the stream that meets it, to what the page's layout says it should do: seconds, where the whole
decoder's loss would take hours to find it.
"""

import random
import time

import data
import torch
import torch.nn.functional as F
from model import rotate
from pointers import (
    AT,
    DIGITS,
    FINDER,
    PLACE,
    SMALL,
    STARTER,
    H,
    Probe,
    bring,
    clear,
    directions,
    gather,
    locate,
    looks,
    mark_words,
    same,
    say,
    shift,
    views,
)
from wiring import BLANK, CODE, TEXT, set_head


def spelt(batch):
    """(page, question, token, square, index in its word, index in its square) of each character of a name or an answer
    that stands on the page."""
    found = []
    for p, asks in enumerate(batch.asks):
        runs = batch.pages[p].runs
        for q, (kind, question, answer, box) in enumerate(asks):
            ids, words = batch.ids[p, q].tolist(), []
            at = int((batch.weights[p, q] == 1).nonzero()[0]) + 1
            if '"' in question:
                name = question.split('"')[1]
                words.append((name, ids.index(data.QUOTE) + 1, [r for r in runs if r.text.removesuffix(":") == name]))
            if kind == "text":
                for r in [r for r in runs if box[1] <= r.box[1] and r.box[3] <= box[3]]:
                    words.append((r.text, at, [r]))
                    at += len(r.text) + 1
            elif kind in ("form", "place", "chart"):
                words.append((answer, at, [r for r in runs if r.text == answer and r.box == box]))
            for text, at, known in words:
                if len(known) == 1 and ids[at : at + len(text)] == list(text.encode()):
                    found += [(p, q, at + i, *rest) for i, rest in spelt_run(known[0], len(text), batch.cols)]
    return found


def spelt_run(run, length, cols):
    """(character, (square, index in its word, index in its square)) of a run's first characters, blanks left out."""
    index, squares, found = 0, [], []
    for i, (c, x, w) in enumerate(list(run.characters())[:length]):
        square = int(run.y // 16) * cols + int((x + w / 2) // 16)
        if c != " ":
            found.append((i, (square, index, squares.count(square))))
            squares.append(square)
        index = 0 if c == " " else index + 1
    return found


def pointing(decoder, streams, batch, rows):
    """One batch of a pointing head's task: rows of (page, question, token, square or -1 for none, weight)."""
    p, q, at, square = (torch.tensor([r[i] for r in rows]) for i in range(4))
    ropes = [decoder.angles(x) for x in data.positions(batch.cols, batch.rows, batch.ids.shape[2])]
    weight = torch.tensor([r[4] for r in rows])
    x, y = streams
    return x, ropes[0], y[p, q, at], [r[at] for r in ropes[1]], p, torch.where(square < 0, H - 1, square + H), weight


def fit_head(decoder, where, tasks, start, steps, rate, tell):
    """Descends from the start (q, k, q bias) of a head to one whose attention lies on the tasks' squares."""
    q, k, bias = params = [t.requires_grad_() for t in start]
    optimizer = torch.optim.Adam(params, lr=rate, betas=(0.9, 0.98))
    seen = []
    for step in range(steps):
        x, rope, y, rope_y, page, target, weight = tasks[step % len(tasks)]
        keys, query = rotate(F.linear(x, k), *rope), rotate(F.linear(y, q, bias), *rope_y)
        scores = torch.einsum("nd,npd->np", query, keys[page]) / 8
        gold = scores.log_softmax(-1)[torch.arange(len(page)), target]
        loss = -(gold * weight).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = rate * min(1, 2 * (1 - step / steps))
        seen.append(gold.detach()[target != H - 1].exp().mean().item())
        if step % 200 == 0 or step == steps - 1:
            tell(f"head {where}: step {step} loss {loss.item():.3f} attention {sum(seen[-30:]) / len(seen[-30:]):.3f}")
    layer, head = where
    with torch.no_grad():
        clear(decoder.blocks[layer], head)
        set_head(decoder.blocks[layer], head, q=q.detach(), k=k.detach(), q_bias=bias.detach())


def fit_finder(decoder, table, batches, steps, tell, rate=3e-3):
    """The head from a letter said to the square that it was read from: by it and the two before it."""
    layer, head = FINDER
    block, width = decoder.blocks[layer], decoder.shape.width
    streams, tasks = Probe(decoder, table, batches, noise=0.12).streams(layer), []
    for b, s in zip(batches, streams):
        rows = [(p, q, at, square, 1.0 if index else 0.2) for p, q, at, square, index, _ in spelt(b)]
        if rows:
            tasks.append(pointing(decoder, s, b, rows))
    first, _, _, last, ahead, x1, x1b, x2, _, _, p1, p2 = views(width)
    slow = torch.cat([torch.arange(12, 31), torch.arange(44, 63)])  # rotary pairs that hardly turn
    one, two, three, four = looks(len(slow), 4)
    q, k, bias = torch.zeros(64, width), torch.zeros(64, width), torch.zeros(64)
    q[slow] = 1.5 * one @ first + 1.2 * two @ x1 + 0.8 * three @ x2 + 0.8 * four @ p1  # p1: of an answer's first letter
    k[slow] = 1.5 * one @ last + 1.2 * two @ ahead + 0.5 * three @ (x1b + p2) + 0.8 * four @ p1
    bias[31], k[31, BLANK] = 8, -0.5
    fit_head(decoder, FINDER, tasks, (q, k, bias), steps, rate, tell)
    bring(block, head, same("loc", "ptr", 1.0))


def starts(batch):
    """Rows for pointing(): each answer's start at the square of its first character; now and then another token, and
    answers that do not begin on the page, at none."""
    where = {(p, q, at): square for p, q, at, square, _, inside in spelt(batch) if inside == 0}
    rows = []
    for p, q, at in (batch.weights == 1).nonzero().tolist():
        square, kind = where.get((p, q, at + 1)), batch.asks[p][q][0]
        if batch.weights[p, q, at - 1] != 1:
            if kind in ("chat", "ground"):
                rows.append((p, q, at, -1, 0.15))
            elif square is not None:
                rows.append((p, q, at, square, 1.0))
        elif random.random() < 0.15:
            rows.append((p, q, at, -1, 0.15))
    return rows


def fit_start(decoder, table, batches, rounds, tell, rate=4e-3):
    """The head from an answer's start to the square of its first character, which it says: beside a name, above it,
    or at a place. batches: an iterable; only what the fit needs of each is kept."""
    layer, head = STARTER
    width, tasks = decoder.shape.width, []
    for b in batches:
        tasks.append(pointing(decoder, Probe(decoder, table, [b], noise=0.12).streams(layer)[0], b, starts(b)))
    first, _, _, _, _, x1, _, x2, _, x3, p1, p2 = views(width)
    slow = torch.cat([torch.arange(12, 25), torch.arange(44, 57)])
    one, two, three = looks(len(slow))
    q, k, bias = torch.zeros(64, width), torch.zeros(64, width), torch.zeros(64)
    q[slow] = 2.0 * (one @ first + 0.8 * two @ x1 + 0.6 * three @ x2)
    k[slow] = 2.0 * (one @ p1 + 0.8 * two @ p2 + 0.6 * three @ x3)
    bias[31] = 8
    k[31, TEXT], k[31, AT["start"]], k[31, AT["sink3"]], q[31, AT["sink2"]] = -2, 2, 4, 4
    for i in range(PLACE):  # rows, fine and coarse; columns; on the slowest pairs
        size, row = (12, 12, 6, 6, 24, 24)[i], 25 + i
        q[row, AT[f"nam{i}"]] = k[row, AT[f"loc{i}"]] = size
        if i > 1:
            q[row + 32, AT[f"goal{i}"]], k[row + 32, AT[f"loc{i}"]] = 9, 12
    fit_head(decoder, STARTER, tasks, (q, k, bias), rounds * len(tasks), rate, tell)
    bring(decoder.blocks[layer], head, [(i, i, 6.0) for i in range(CODE)])
    mute(decoder, tasks)


@torch.no_grad()
def mute(decoder, tasks):
    """Away from line breaks the starting head is held to the picture's start, which says nothing."""
    layer, head = STARTER
    block, row = decoder.blocks[layer], head * 64
    x, _, y = tasks[0][:3]
    sink, breaks = x[0, H - 1], y[:, AT["sink2"]]
    block.v.weight[row : row + CODE, AT["sink3"]] = -sink[:CODE] / sink[AT["sink3"]]
    block.q.weight[row + 63], block.k.weight[row + 63] = 0, 0
    block.q.bias[row + 63] = 8
    block.q.weight[row + 63, AT["sink2"]] = -8 / breaks[breaks > 0.5].mean()
    block.k.weight[row + 63, AT["sink3"]] = 15 / sink[AT["sink3"]]


def fit_digits(decoder, table, batches, steps, tell, rate=4e-3):
    """Layer 3's feed-forward, which is free, makes digits of a name's place, in figures of their own; the last layer
    says them."""
    block = decoder.blocks[DIGITS]
    names = [f"nam{i}" for i in range(PLACE)] + ["where", "sink2", "line1", "comma", "comma1", "comma2"]
    inputs = torch.tensor([AT[m] for m in names] + [TEXT, *range(CODE)])  # and what was just said
    outputs = torch.tensor([AT[f"dig{i}"] for i in range(10)] + [AT["digc"], AT["dige"]])
    seen, said = [], []
    for b, (_, y) in zip(batches, Probe(decoder, table, batches, noise=0.12).streams(DIGITS, inside=True)):
        for p, q, at in (b.weights == 1).nonzero().tolist():
            t, asked = b.ids[p, q, at + 1].item(), b.asks[p][q][0] == "ground"
            if asked:
                seen.append(y[p, q, at][inputs])
                said.append(t)
    seen, said, ways = torch.stack(seen), torch.tensor(said), directions(decoder)
    heard = (ways @ (decoder.embed.weight * decoder.norm.weight).T).detach()  # the figures' part in each token's score
    heard /= heard.max(1).values.mean()
    g = torch.Generator().manual_seed(4)
    wide = torch.tensor([2.1] * PLACE + [0.7] * (len(names) - PLACE + 1) + [0.2] * CODE)
    gate, up = (torch.randn(len(block.gate.weight), n, generator=g) for n in (len(inputs), 1))
    gate *= wide
    asked_at = torch.tensor([PLACE])  # where no point is asked for, nothing comes
    down = torch.randn(len(outputs), len(gate), generator=g) * 0.05
    optimizer = torch.optim.Adam([t.requires_grad_() for t in (gate, up, down)], lr=rate)
    for step in range(steps):
        i = torch.randint(len(seen), (512,), generator=g)
        x, t = seen[i] * (1 + 0.05 * torch.randn(512, 1)) + 0.01 * torch.randn(512, len(inputs)), said[i]
        z = F.linear(F.silu(F.linear(x, gate)) * F.linear(x[:, asked_at], up), down)
        loss = F.cross_entropy(z @ heard, t) + 0.003 * (z.clamp(max=0) ** 2).mean()  # what is not meant keeps quiet
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = rate * min(1, 2 * (1 - step / steps))
        if step % 500 == 0 or step == steps - 1:
            share = ((z @ heard).argmax(1) == t).float().mean()
            tell(f"digits: step {step} loss {loss.item():.3f} right {share:.3f}")
    with torch.no_grad():
        for matrix, value, at in ((block.gate, gate, inputs), (block.up, up, inputs[asked_at])):
            matrix.weight.zero_()
            matrix.weight[:, at] = value.detach()
        block.down.weight.zero_()
        block.down.weight[outputs] = SMALL * down.detach()
    say(decoder, outputs)


def wire_places(decoder, table, draw, minutes, tell):
    """All of it, on a decoder that copies already. draw(kind, count) makes batches of pages. The starting head's pages
    are drawn for half of the minutes; the rest takes some two minutes of a CPU core."""
    mark_words(decoder)
    some = [b for kind in ("form", "place", "ground", "chart", "text") for b in draw(kind, 1)]
    probe = Probe(decoder, table, some)
    locate(decoder, probe)
    fit_finder(decoder, table, [b for k in ("form", "ground", "chart") for b in draw(k, 6)], 500, tell)
    shift(decoder, probe, 2, 3, [(BLANK, "start"), (AT["comma"], "comma1"), (AT["sink2"], "line1")])
    shift(decoder, probe, 3, 3, [(AT["comma1"], "comma2")])
    gather(decoder, probe)
    fit_digits(decoder, table, draw("ground", 36) + some, 2000, tell)

    def batches():
        begin, rounds = time.time(), 0
        while rounds < 6 or time.time() - begin < 30 * minutes:
            rounds += 1
            for kind in ("form", "chart", "place", "chart", "text"):
                yield from draw(kind, 1)

    fit_start(decoder, table, batches(), 10, tell)
