"""The decoder's second circuit: where things stand. It lives in the 64 figures of width and in the heads that the first
one (wiring.wire) leaves alone.

Layers 0 and 1 give each square its row and column. Layer 2 points from each letter said at the square it was read from
and fetches that place. Layer 3 gathers the places of a name's letters, and from " top", " left" and the like the place
they mean. Layer 4 points from an answer's start at the square of its first character; where a point is asked for,
layer 3's feed-forward makes digits of the place, and the last layer says them. What a formula gives is set by hand in
here; the two pointing heads and the digits are fitted, each alone, to what the layout says they should do (fits.py).
"""

import math

import data
import torch
import torch.nn.functional as F
from tokenizer import IM_END, IM_START, VISION_START, WORD0, WORDS
from wiring import BLANK, CODE, COPY, PICTURE, TEXT, USED, ideal_embedding, noisy, offset_bias, set_head

BASE = 12 * CODE + 4  # the first figure of this circuit
PLACE = 6  # figures of a place: cosine and sine of three angles
MARKS = "char letter mode where bar place comma start comma1 line1 comma2".split()
NAMES = [f"{group}{i}" for group in ("loc", "ptr", "row", "nam", "goal") for i in range(PLACE)]
NAMES += [f"sink{i}" for i in range(4)] + MARKS + [f"dig{i}" for i in range(10)] + ["digc", "dige"]
AT = {name: BASE + i for i, name in enumerate(NAMES)}
SMALL = 0.25  # this circuit's figures are kept small and read the stronger, so that norms hardly change by them
PAIRS = [1, 6, 7]  # rotary pairs of the row, fine and coarse, and of the column
FINDER, STARTER, TALKER = (2, 2), (4, 4), (7, 4)  # layer, head
GATHER = DIGITS = 3  # layers
BATCH = 4000  # tokens
H = len(data.HEAD)


def word(text):
    """The token of one of the questions' own words."""
    return WORD0 + WORDS.index(text)


def views(width):
    """The twelve code places of the stream, as wiring.wire names them: each [CODE, width]."""
    unit = torch.eye(width)
    return [unit[i * CODE : (i + 1) * CODE] for i in range(12)]


def looks(rows, count=3, seed=2):
    """Random views [rows, CODE] of a code, into that many figures of a head."""
    g = torch.Generator().manual_seed(seed)
    return [torch.linalg.qr(torch.randn(rows, CODE, generator=g))[0] for _ in range(count)]


@torch.no_grad()
def clear(block, head):
    """A head that does nothing."""
    z, bias = torch.zeros_like(block.q.weight[: block.d]), torch.zeros(block.d)
    set_head(block, head, q=z, k=z, v=z, out=z.T, q_bias=bias, k_bias=bias)
    block.v.bias[head * block.d : (head + 1) * block.d] = 0


@torch.no_grad()
def bring(block, head, moves):
    """What a head brings: figures of the key's token into figures of the query's, as (from, to, gain)."""
    v = torch.zeros_like(block.q.weight[: block.d])
    out = v.T.clone()
    for i, (source, target, gain) in enumerate(moves):
        v[i, source], out[target, i] = 1, gain * (SMALL if target >= BASE else 1)
    set_head(block, head, v=v, out=out)


def same(source, target, gain):
    """Moves of a place into another group of figures."""
    return [(AT[f"{source}{i}"], AT[f"{target}{i}"], gain) for i in range(PLACE)]


def figures(freqs, row, column):
    """The six figures of a place, in squares."""
    angles = [freqs[PAIRS[0]] * row, freqs[PAIRS[1]] * row, freqs[PAIRS[2]] * column]
    return torch.stack([f(a) for a in angles for f in (torch.cos, torch.sin)])


def free(decoder):
    """{name: 1 where training may change a parameter, 0 where it belongs to this circuit}. A step of any size that
    reaches the places upsets every pointing head behind them: gradients there are hundreds of times the others'. Other
    heads may learn to read the places."""
    masks, taken = {}, {(1, 3)} | {(i, decoder.shape.heads - 1) for i in range(decoder.shape.layers)}
    for name, value in decoder.named_parameters():
        mask, part = torch.ones_like(value), name.split(".")
        if name == "embed.weight":
            mask[:, USED:] = 0
        elif part[-2] in ("norm", "attn_norm", "ffn_norm", "out", "down"):
            mask[USED:] = 0
        if part[0] == "blocks":
            layer = int(part[1])
            for head in [h for i, h in taken if i == layer]:
                rows = slice(head * decoder.blocks[layer].d, (head + 1) * decoder.blocks[layer].d)
                if part[2] in ("q", "k", "v"):
                    mask[rows] = 0
                elif part[2] == "out":
                    mask[:, rows] = 0
            if 1 < layer < COPY:
                mask.zero_()
        masks[name] = mask
    return masks


@torch.no_grad()
def mark_words(decoder):
    """Marks in the tokens' embeddings: the four ahead of the picture, characters, the questions' telling words."""
    e, freqs = decoder.embed.weight, decoder.freqs
    e[:, BASE:] = 0
    for block in decoder.blocks:
        block.attn_norm.weight[BASE:] = block.ffn_norm.weight[BASE:] = 1 / SMALL
    for i, t in enumerate((IM_START, word("user"), ord("\n"), VISION_START)):
        e[t, AT[f"sink{i}"]] = 3
    for c in range(33, 127):
        e[c, AT["char"]] = 3 * (chr(c) not in '"?.')
        e[c, AT["letter"]] = 3 * chr(c).isalpha()
    e[ord(","), AT["comma"]] = 3
    for w, mark in (("Where", "where"), (" bar", "bar")):
        e[word(w), AT[mark]] = e[word(w), AT["mode"]] = 3
    rows, columns = {"top": 3.5, "bottom": 17.0}, {"left": 2.5, "right": 16.3}
    for w in ("top", "bottom", "left", "right", "center"):
        strength = torch.tensor([0.0] * 2 + [1.0 if w in rows else 0.35] * 2 + [1.0 if w in columns else 0.35] * 2)
        goal = figures(freqs, torch.tensor(rows.get(w, 10.2)), torch.tensor(columns.get(w, 9.3)))
        e[word(" " + w), AT["place"]] = e[word(" " + w), AT["mode"]] = 3
        e[word(" " + w), AT["goal0"] : AT["goal0"] + PLACE] = goal * strength * (5 if w == "center" else 2)
    e[:, BASE:] *= SMALL


class Probe:
    """What stands in the stream ahead of a layer on some batches: to set sizes by, and to fit heads on."""

    def __init__(self, decoder, table, batches, noise=0.0):
        self.decoder, self.table, self.batches, self.noise = decoder, table, batches, noise

    @torch.no_grad()
    def streams(self, layer, inside=False):
        """Per batch (prefix [B, P, E], turns [B, Q, L, E]) normalised as the layer's attention, or with inside its
        feed-forward, meets them."""
        d, found = self.decoder, []
        for b in self.batches:
            around = [d.embed(torch.tensor(x)).expand(len(b.ids), -1, -1) for x in (data.HEAD, data.TAIL)]
            image = noisy(ideal_embedding(b.symbols, self.table), self.noise)
            x, y = torch.cat([around[0], image, around[1]], 1), d.embed(b.ids)
            ropes = [d.angles(p) for p in data.positions(b.cols, b.rows, b.ids.shape[2])]
            for block in d.blocks[:layer]:
                x, y = block(x, ropes[0], y, ropes[1], last=False)
            block = d.blocks[layer]
            if inside:
                x, y = block.attend(x, ropes[0], y, ropes[1], last=False)
            norm = block.ffn_norm if inside else block.attn_norm
            found.append((norm(x), norm(y)))
        return found


@torch.no_grad()
def locate(decoder, probe):
    """The squares' rows and columns. A square looks at the four tokens ahead of the picture, which stand at known
    places: with keys a quarter turn apart on one rotary pair, the shares it gives them tell the pair's angle."""
    for n, (layer, head) in enumerate([(0, 4), (1, 4), (1, 3)]):
        block, i = decoder.blocks[layer], PAIRS[n]
        clear(block, head)
        streams = probe.streams(layer)
        squares = torch.cat([x[:, H:-1].flatten(0, 1) for x, _ in streams])
        sinks = [streams[0][0][0, j, AT[f"sink{j}"]].item() for j in range(H)]
        blank = torch.cat([b.symbols[..., 0].flatten() == 0 for b in probe.batches])
        ratio = squares[blank, PICTURE].mean() / squares[blank, BLANK].mean()
        size = (squares[~blank, PICTURE] - ratio * squares[~blank, BLANK]).mean()
        q, k = (torch.zeros_like(block.q.weight[: block.d]) for _ in range(2))
        q[i, PICTURE], q[i, BLANK] = 1 / size, -ratio / size  # nothing for blank squares
        q[block.d // 2 - 1] = q[i]
        for j, sink in enumerate(sinks):
            phase, at = decoder.freqs[i] * (H - j) + math.pi / 2 * j, AT[f"sink{j}"]
            k[i, at], k[i + block.d // 2, at] = 8 * torch.cos(phase) / sink, 8 * torch.sin(phase) / sink
            k[block.d // 2 - 1, at] = 8 * 14 / sink  # these four and no others
        set_head(block, head, q=q, k=k)
        cosine, sine = AT[f"loc{2 * n}"], AT[f"loc{2 * n + 1}"]
        targets = [(cosine, 4.5), (sine, 4.5), (cosine, -4.5), (sine, -4.5)]
        bring(block, head, [(AT[f"sink{j}"], to, gain / sinks[j]) for j, (to, gain) in enumerate(targets)])


@torch.no_grad()
def shift(decoder, probe, layer, head, moves):
    """A head that brings marks from the token before, or from the square to the left."""
    block, which = decoder.blocks[layer], decoder.which
    clear(block, head)
    x, y = probe.streams(layer)[0]
    weight = torch.tensor([25.0, 25.0, 40.0])[which] * (decoder.freqs > 0.02)
    q = torch.zeros_like(block.q.weight[: block.d])
    for offset, mark, size in (
        ((0, 0, 1), PICTURE, x[:, H:-1, PICTURE].mean()),
        ((1, 1, 1), TEXT, y[..., TEXT].mean()),
    ):
        at, k = offset_bias(decoder.freqs, torch.tensor(offset, dtype=torch.float)[which], weight)
        q[:, mark] += at / size
    set_head(block, head, q=q, k_bias=k)
    bring(block, head, [(source, AT[to], 1.0) for source, to in moves])


@torch.no_grad()
def gather(decoder, probe):
    """What has been said lately, and a name's letters alone, bring their places; the telling words their marks."""
    block, f, width = decoder.blocks[GATHER], decoder.freqs, decoder.shape.width
    turns = torch.cat([y.flatten(0, 2) for _, y in probe.streams(GATHER)])
    size = {m: turns[turns[:, AT[m]] > 0.5, AT[m]].mean() for m in ("char", "letter", "mode")}
    near = torch.where((decoder.which == 2) & (f > 0.05) & (f < 0.25), 3.0, 0.0)
    marks = [(AT[m], AT[m], 1.5) for m in ("where", "bar", "place")] + same("goal", "goal", 1.5)
    plans = [
        ("char", near, same("ptr", "row", 1.5)),
        ("letter", 0 * near, same("ptr", "nam", 1.5)),
        ("mode", 0 * near, marks),
    ]
    for head, (mark, weight, moves) in enumerate(plans):
        clear(block, head)
        q_bias, k_bias = offset_bias(f, torch.zeros_like(f), weight)
        k = torch.zeros(block.d, width)
        last = block.d // 2 - 1
        q_bias[last], k_bias[last], k[last, AT[mark]] = 8, 0, 17 / size[mark]
        if mark == "mode":
            k[last, AT["sink0"]] = 9 / size[mark]  # where the question has no such word
        set_head(block, head, k=k, q_bias=q_bias, k_bias=k_bias)
        bring(block, head, moves)


@torch.no_grad()
def directions(decoder):
    """[12, width] unit vectors of the stream that say 0 to 9, the comma and the end."""
    e = decoder.embed.weight[[*range(48, 58), ord(","), IM_END]].clone()
    e[:, TEXT], e[:, BASE:], e[:11, CODE:] = 0, 0, 0
    return F.normalize(e, dim=-1)


@torch.no_grad()
def say(decoder, outputs):
    """The last layer's head that turns the digits' figures into what is said, token by token."""
    layer, head = TALKER
    block, freqs = decoder.blocks[layer], decoder.freqs
    clear(block, head)
    q_bias, k_bias = offset_bias(freqs, 0 * freqs, 10.0 * (freqs > 0.02))
    v, out = torch.zeros(block.d, decoder.shape.width), torch.zeros(decoder.shape.width, block.d)
    v[range(len(outputs)), outputs] = 1
    out[:, : len(outputs)] = 1000 * directions(decoder).T  # more than all else has to say
    set_head(block, head, v=v, out=out, q_bias=q_bias, k_bias=k_bias)
