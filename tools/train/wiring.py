"""The characters' codes in which the two halves meet, and a start for the decoder as a copier that reads them.

A wired head is set by hand. q and k biases alone can point a head at a fixed offset, since its score is then
sum over rotary pairs of strength * cos(freq * (delta - offset)); matrices move a code from one place to another.
"""

import math
import random

import torch
import torch.nn.functional as F
from tokenizer import IM_END

CODE = 21  # figures in a character's code; width 256 holds twelve codes and a few marks
# marks: a picture token without characters; a text token; a picture token; one whose first character begins a word
BLANK, TEXT, PICTURE, BEGINS = 252, 253, 254, 255
MARK = 3 * CODE - 1  # of a text token: it follows a line break; no character said has a third one beside it
USED, COPY = 256, 4  # figures that wire() uses; the layer that copies


def codes(width, seed=1):
    """[5, 128, width] codes of the characters of a token: CODE figures a character (spread evenly over directions,
    length 4), in the five places that ideal_embedding() names. Character 0 (none) is zero. Text tokens use the same."""
    g = torch.Generator().manual_seed(seed)
    each = F.normalize(torch.randn(128, CODE, generator=g), dim=-1)
    for _ in range(200):  # push apart: steepest descent on sum exp(8 cos)
        push = (8 * each @ each.T).fill_diagonal_(-torch.inf).exp()
        each = F.normalize(each - 0.2 * F.normalize(push @ each, dim=-1), dim=-1)
    table = torch.zeros(5, 128, width)
    for s in range(5):
        table[s, 1:, s * CODE : (s + 1) * CODE] = 4 * each[1:]
    return table


def ideal_embedding(marks, table):
    """[..., width] embedding of tokens with labels [..., 6]: the first, second and third character whose middle is in
    the token, the last of them, and the one ahead of the last in its word, wherever that stands; 0 is none; and whether
    the first begins a word."""
    total = sum(table[s][marks[..., s]] for s in range(len(table)))
    total[..., BEGINS] += 4 * marks[..., 5]
    total[..., BLANK] += 4 * (marks[..., 0] == 0)
    total[..., PICTURE] += 8
    return total


def noisy(embedding, most):
    """An embedding with normal noise of up to that deviation in the figures that pictures fill."""
    noise = random.uniform(0, most) * torch.randn_like(embedding)
    noise[..., USED:] = 0
    return embedding + noise


def offset_bias(freqs, offset, strength):
    """(q bias, k bias), each [d], of a head whose scores are sum_i strength_i * cos(freq_i * (delta_i - offset_i));
    delta = query position - key position; freqs, offset and strength are per rotary pair, [d / 2]."""
    root = torch.sqrt(strength * math.sqrt(2 * len(freqs)))
    q = torch.cat([root * torch.cos(freqs * offset), -root * torch.sin(freqs * offset)])
    return q, torch.cat([root, torch.zeros_like(root)])


@torch.no_grad()
def point(block, head, q_bias, k_bias):
    """Starts a head of a block as a position head; its matrices stay, small."""
    rows = slice(head * block.d, (head + 1) * block.d)
    block.q.weight[rows] *= 0.1
    block.k.weight[rows] *= 0.1
    block.q.bias[rows], block.k.bias[rows] = q_bias, k_bias


def set_head(block, head, q=None, k=None, v=None, out=None, q_bias=None, k_bias=None):
    """Parameters of one head: q, k, v [d, width], out [width, d], biases [d]."""
    rows = slice(head * block.d, (head + 1) * block.d)
    matrices = [(block.q.weight, q), (block.k.weight, k), (block.v.weight, v)]
    for part, value in matrices + [(block.q.bias, q_bias), (block.k.bias, k_bias)]:
        if value is not None:
            part[rows] = value
    if out is not None:
        block.out.weight[:, rows] = out


def prefer(block, head, scores):
    """Adds to a head's scores about scores[i] for keys that hold component i, by way of the slowest rotary pair."""
    row = head * block.d + block.d // 2 - 1
    block.q.weight[row], block.q.bias[row] = 0, 8.0
    block.k.weight[row], block.k.bias[row] = scores / 3.0, 0


def free_content(block, freqs):
    """The other heads start on the slow rotary pairs, where a match does not depend on where the two tokens stand."""
    fast = (freqs > 0.02).repeat(2).repeat(block.heads)
    block.q.weight[fast] *= 0.1
    block.k.weight[fast] *= 0.1


class Wire:
    """Hands for a decoder: views of the code places of its stream, and what a head does with them."""

    def __init__(self, decoder):
        self.decoder, self.width, self.d = decoder, decoder.shape.width, decoder.shape.head_dim
        self.unit = torch.eye(self.width)
        self.place = [self.unit[i * CODE : (i + 1) * CODE] for i in range(12)]

    def stack(self, *views):
        """Views side by side in one head: [d, width]."""
        return F.pad(torch.cat(views), (0, 0, 0, self.d - sum(len(v) for v in views)))

    def aim(self, layer, head, strength, *targets):
        """Position head of (t, h, w) strength. targets: (token offset (t, h, w), component that makes a token use it,
        the component's usual size after the norm)."""
        which, freqs = self.decoder.which, self.decoder.freqs
        weight = torch.tensor(strength, dtype=torch.float)[which] * (freqs > 0.02)
        q = torch.zeros(self.d, self.width)
        for offset, component, size in targets:
            at, k = offset_bias(freqs, torch.tensor(offset, dtype=torch.float)[which], weight)
            q += torch.outer(at, component / size)
        set_head(self.decoder.blocks[layer], head, q=q, k=0 * q, k_bias=k, q_bias=torch.zeros(self.d))

    def move(self, layer, head, source, target, size):
        """What a head brings: the source view of the key's token, into the target place, at a size."""
        set_head(self.decoder.blocks[layer], head, v=source, out=size * target.T)


@torch.no_grad()
def wire(decoder, table):
    """Starts three layers as a copier for codes(): layers 0 and 1 give each token the three characters ahead of it, on
    the page across gaps; layer COPY compares the last three characters said with the page's and brings the one that
    comes next. Training does the rest: where to start, when to stop, and every weighing of doubtful cases. The layers
    between them, and the figures beyond the twelve codes and four marks, stay empty for pointers.py: nothing reads or
    writes there, and training does not change that."""
    w, blocks, embed = Wire(decoder), decoder.blocks, decoder.embed.weight
    first, second, third, last, ahead, x1, x1b, x2, x2b, x3, p1, p2 = w.place
    text, blank, picture = w.unit[TEXT], w.unit[BLANK], w.unit[PICTURE]
    words = embed[:, CODE : 3 * CODE].clone()
    embed.zero_()
    embed[:, CODE : 3 * CODE] = 2 * words
    embed[33:127] = table[0, 33:127] + table[3, 33:127]
    embed[:, TEXT] = 3
    newline, space, end = (embed[c] - 3 * text for c in (10, 32, IM_END))
    begins, mark, break_, gap = w.unit[BEGINS], w.unit[MARK], newline / newline.norm(), space / space.norm()

    # layer 0: text looks 1, 2, 3 tokens back; the page to the left square, and to the nearest inked one to the left
    w.aim(0, 0, (25, 25, 40), ((1, 1, 1), text, 7), ((0, 0, 1), picture, 12))
    w.move(0, 0, w.stack(last, ahead, break_[None]), w.stack(x1, x1b, mark[None]), 0.5)
    w.aim(0, 1, (25, 60, 2.5), ((2, 2, 2), text, 7), ((0, 0, -6), picture, 12))  # -6: the nearer the better
    w.move(0, 1, w.stack(last, ahead), w.stack(x2, x2b), 0.5)
    prefer(blocks[0], 1, -7 * blank)
    w.aim(0, 2, (25, 25, 25), ((3, 3, 3), text, 7))
    w.move(0, 2, w.stack(last), w.stack(x3), 0.4)

    # layer 1: an answer's start takes the end of the question's last name, a space what stands ahead of itself; on the
    # page a square takes what its left neighbour found; the answer's first character takes the name's end to where a
    # square has what stands ahead of it
    w.aim(1, 0, (10, 10, 10), ((6, 6, 6), break_, 9), ((0, 0, 0), gap, 9))
    w.move(1, 0, w.stack(x1, x2, x3), w.stack(first, x1, x2), 0.6)
    w.aim(1, 2, (10, 10, 10), ((7, 7, 7), mark, 9))
    w.move(1, 2, w.stack(x1, x2), w.stack(p1, p2), 0.3)
    w.aim(1, 1, (25, 25, 40), ((0, 0, 1), picture, 10))
    w.move(1, 1, w.stack(x2, x2b, 0.6 * x1 + 0.6 * x1b), w.stack(p1, p2, x3), 0.8)

    # layer COPY: three characters said against three ahead of a square's first, second, third character
    slow = (decoder.freqs < 0.08).nonzero().flatten()[:-1]
    slow = torch.cat([slow, slow + w.d // 2])
    g = torch.Generator().manual_seed(2)
    looks = [torch.linalg.qr(torch.randn(len(slow), CODE, generator=g))[0] for _ in range(3)]

    def trio(now, prior, prior2):
        m = torch.zeros(w.d, w.width)
        m[slow] = 1.3 * looks[0] @ now + 1.0 * looks[1] @ prior + 0.8 * looks[2] @ prior2
        return 1.1 * m

    plans = [(trio(p1, p2, x3), first), (trio(first, p1, p2), second), (trio(second, first, p1), third)]
    for head, (key, source) in enumerate(plans):
        set_head(blocks[COPY], head, q=trio(first, x1, x2), k=1.2 * key)
        prefer(blocks[COPY], head, -3 * blank - 8 * text)  # characters of the page, not of the talk
        w.move(COPY, head, w.stack(source), w.stack(first), 1.5)
    goes_on = w.stack(first, 0.5 * end[None], 0.6 * space[None])  # with a blank the answer ends; a word wants a space
    w.move(COPY, 0, w.stack(first, blank[None], begins[None]), goes_on, 1.5)
    w.aim(COPY, 3, (10, 10, 10), ((0, 0, 0), text, 5))  # what was just said gives way to what comes
    w.move(COPY, 3, w.stack(first, (gap + break_)[None]), w.stack(0.5 * x1b - 0.75 * first, -space[None]), 1.0)
    for block in blocks[COPY + 1 :]:
        free_content(block, decoder.freqs)
    keep_empty(decoder)


def keep_empty(decoder):
    """Takes the figures from USED on, the layers between the second and COPY, and every layer's last head out of every
    matrix."""
    decoder.embed.weight[:, USED:] = 0
    decoder.norm.weight[USED:] = 0
    decoder.norm.weight *= (USED / decoder.shape.width) ** 0.5
    for i, block in enumerate(decoder.blocks):
        for norm in (block.attn_norm, block.ffn_norm):
            norm.weight[:USED] *= (USED / decoder.shape.width) ** 0.5  # as if the empty figures were not there
        head = slice((block.heads - 1) * block.d, None)
        for reader in (block.q, block.k, block.v, block.gate, block.up):
            reader.weight[:, USED:] = 0
        for writer in (block.out, block.down):
            writer.weight[USED:] = 0
        for part in (block.q, block.k, block.v):
            part.weight[head] = 0
        block.out.weight[:, head] = 0
        if 1 < i < COPY:
            for part in (block.q, block.k, block.v, block.out, block.gate, block.up, block.down):
                part.weight.zero_()
