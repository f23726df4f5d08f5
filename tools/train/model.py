"""The two halves in PyTorch, shaped as llama.cpp's qwen2vl: a text decoder with M-RoPE and a ViT with a 2x2 merger.

Initialisation knows geometry: q and k biases alone can point an attention head at a fixed offset (score = sum over
frequencies of cos(f * (delta - offset))), so the first layers start as "the token before" and "the square to the left".
Without these heads, copying from a two-dimensional page takes hours to appear on a small machine; with them, minutes.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tokenizer import IM_END, N_VOCAB

IMAGE_MEAN, IMAGE_STD = [0.5] * 3, [0.5] * 3


@dataclass
class Shape:
    """Sizes of both halves. sections: rotary pairs for the t, h and w positions; they sum to head_dim / 2."""
    width: int = 256
    layers: int = 6
    heads: int = 4
    ffn: int = 640
    sections: tuple = (1, 6, 25)
    rope_base: float = 1000.0
    eps: float = 1e-6
    vit_width: int = 128
    vit_layers: int = 3
    vit_heads: int = 4
    vit_ffn: int = 320
    patch: int = 8

    @property
    def head_dim(self):
        return self.width // self.heads


def rotate(x, cos, sin):
    """Half-split rotation; x [..., d], cos and sin broadcast over [..., d / 2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def offset_bias(freqs, offset, strength):
    """(q bias, k bias), each [d]: a head with only these scores sum_i strength_i * cos(freq_i * delta_i - freq_i * offset_i)
    where delta = query position - key position; freqs, offset and strength are per rotary pair, [d / 2]."""
    root = torch.sqrt(strength * math.sqrt(2 * len(freqs)))
    q = torch.cat([root * torch.cos(freqs * offset), -root * torch.sin(freqs * offset)])
    return q, torch.cat([root, torch.zeros_like(root)])


class Decoder(nn.Module):
    """qwen2vl text model, embeddings tied."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(N_VOCAB, shape.width)
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.layers)])
        self.norm = nn.RMSNorm(shape.width, shape.eps)
        half = shape.head_dim // 2
        self.register_buffer("freqs", shape.rope_base ** (-torch.arange(half) / half), persistent=False)
        which = [0] * shape.sections[0] + [1] * shape.sections[1] + [2] * shape.sections[2]
        self.register_buffer("which", torch.tensor(which), persistent=False)
        nn.init.normal_(self.embed.weight, std=0.25)
        nn.init.constant_(self.norm.weight, 0.15)

    @torch.no_grad()
    def wire(self, table):
        """Starts the first three layers as a copier for codes(): layers 0 and 1 give each token the three characters ahead of it,
        on the page across gaps; layer 2 compares the last three characters said with the page's and brings the one that comes
        next. Training does the rest: which place to start at, when to stop, and every weighing of doubtful cases."""
        width, d = self.shape.width, self.shape.head_dim
        unit = torch.eye(width)
        first, second, third, last, ahead, x1, x1b, x2, x2b, x3, p1, p2 = (unit[i * CODE:(i + 1) * CODE] for i in range(12))
        zero, text, blank, picture = torch.zeros(d, width), unit[TEXT], unit[BLANK], unit[PICTURE]
        words = self.embed.weight[:, CODE:3 * CODE].clone()
        self.embed.weight.zero_()
        self.embed.weight[:, CODE:3 * CODE] = 2 * words
        self.embed.weight[33:127] = table[0, 33:127] + table[3, 33:127]
        self.embed.weight[:, TEXT] = 3

        def stack(*views):
            """Up to three CODE-wide views side by side in one head: [d, width]."""
            return F.pad(torch.cat(views), (0, 0, 0, d - sum(len(v) for v in views)))

        def aim(layer, head, strength, *targets):
            """Position head; targets: (token offset (t, h, w), component that makes a token use it, the component's usual size)."""
            weight = torch.tensor(strength, dtype=torch.float)[self.which] * (self.freqs > 0.02)
            q = torch.zeros(d, width)
            for offset, component, size in targets:
                at, k = offset_bias(self.freqs, torch.tensor(offset, dtype=torch.float)[self.which], weight)
                q += torch.outer(at, component / size)
            self.blocks[layer].set_head(head, q=q, k=zero, k_bias=k, q_bias=torch.zeros(d))

        def move(layer, head, source, target, size):
            self.blocks[layer].set_head(head, v=source, out=size * target.T)

        aim(0, 0, (25, 25, 40), ((1, 1, 1), text, 7), ((0, 0, 1), picture, 12))
        move(0, 0, stack(last, ahead), stack(x1, x1b), 0.5)                # one back; on the page the square to the left
        aim(0, 1, (25, 60, 2.5), ((2, 2, 2), text, 7), ((0, 0, -6), picture, 12))   # -6: the nearer the better, to the left only
        move(0, 1, stack(last, ahead), stack(x2, x2b), 0.5)                # two back; the nearest inked square at or left of here
        self.blocks[0].prefer(1, -7 * blank)
        aim(0, 2, (25, 25, 25), ((3, 3, 3), text, 7))
        move(0, 2, stack(last), stack(x3), 0.4)                            # three back
        newline = self.embed.weight[10] - 3 * text
        aim(1, 0, (10, 10, 10), ((6, 6, 6), newline / newline.norm(), 9))  # an answer's start looks at the question's last name
        move(1, 0, stack(x1, x2, x3), stack(first, x1, x2), 0.6)
        aim(1, 1, (25, 25, 40), ((0, 0, 1), picture, 10))                   # what the left square found: characters ahead of this
        move(1, 1, stack(x2, x2b, 0.6 * x1 + 0.6 * x1b), stack(p1, p2, x3), 0.8)
        slow = (self.freqs < 0.08).nonzero().flatten()[:-1]
        slow = torch.cat([slow, slow + d // 2])
        g = torch.Generator().manual_seed(2)
        looks = [torch.linalg.qr(torch.randn(len(slow), CODE, generator=g))[0] for _ in range(3)]

        def trio(now, prior, prior2):
            m = zero.clone()
            m[slow] = 1.3 * looks[0] @ now + 1.0 * looks[1] @ prior + 0.8 * looks[2] @ prior2
            return 1.1 * m
        plans = [(trio(p1, p2, x3), first), (trio(first, p1, p2), second), (trio(second, first, p1), third)]
        for head, (key, source) in enumerate(plans):
            self.blocks[2].set_head(head, q=trio(first, x1, x2), k=1.2 * key)
            self.blocks[2].prefer(head, -3 * blank - 8 * text)               # characters of the page, not of the talk
            move(2, head, stack(source), stack(first), 1.5)
        signs = stack(first, blank[None])                                  # where the page goes on blank, the answer ends
        end = self.embed.weight[IM_END] - 3 * text
        move(2, 0, signs, torch.cat([stack(first)[:CODE], 0.5 * end[None], zero[CODE + 1:]]), 1.5)
        aim(2, 3, (10, 10, 10), ((0, 0, 0), text, 5))                      # what was just said gives way to what comes
        move(2, 3, stack(first), stack(0.5 * x1b - 0.75 * first), 1.0)
        for block in self.blocks[3:]:
            block.free_content(self.freqs)

    def angles(self, positions):
        """cos and sin [tokens, d / 2] of positions [3, tokens]."""
        a = positions.float()[self.which].T * self.freqs
        return a.cos(), a.sin()

    def forward(self, prefix, prefix_pos, asked=None, asked_pos=None):
        """prefix [B, P, E] embeddings; asked [B, Q, L, E]: Q continuations, each seeing the prefix and itself.
        Positions [3, P] and [3, L]. Returns hidden states [B, Q, L, E], or of the prefix if nothing is asked."""
        rope = self.angles(prefix_pos)
        rope2 = self.angles(asked_pos) if asked is not None else None
        for i, block in enumerate(self.blocks):
            prefix, asked = block(prefix, rope, asked, rope2, last=asked is not None and i == len(self.blocks) - 1)
        return self.norm(prefix if asked is None else asked)

    def logits(self, hidden):
        return hidden @ self.embed.weight.T


class Block(nn.Module):
    """Pre-norm decoder layer: attention with q, k and v biases, SwiGLU."""

    def __init__(self, s):
        super().__init__()
        self.heads, self.d = s.heads, s.head_dim
        self.attn_norm, self.ffn_norm = nn.RMSNorm(s.width, s.eps), nn.RMSNorm(s.width, s.eps)
        self.q, self.k, self.v = (nn.Linear(s.width, s.width) for _ in range(3))
        self.out = nn.Linear(s.width, s.width, bias=False)
        self.gate, self.up = nn.Linear(s.width, s.ffn, bias=False), nn.Linear(s.width, s.ffn, bias=False)
        self.down = nn.Linear(s.ffn, s.width, bias=False)
        for m in (self.q, self.k, self.v, self.out, self.gate, self.up, self.down):
            nn.init.normal_(m.weight, std=0.5 / math.sqrt(m.in_features))
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        with torch.no_grad():
            self.out.weight *= 0.2
            self.down.weight *= 0.5

    @torch.no_grad()
    def point(self, head, q_bias, k_bias):
        rows = slice(head * self.d, (head + 1) * self.d)
        self.q.weight[rows] *= 0.1
        self.k.weight[rows] *= 0.1
        self.q.bias[rows], self.k.bias[rows] = q_bias, k_bias

    @torch.no_grad()
    def set_head(self, head, q=None, k=None, v=None, out=None, q_bias=None, k_bias=None):
        """Parameters of one head: q, k, v [d, width], out [width, d], biases [d]."""
        rows = slice(head * self.d, (head + 1) * self.d)
        for part, value in ((self.q.weight, q), (self.k.weight, k), (self.v.weight, v), (self.q.bias, q_bias), (self.k.bias, k_bias)):
            if value is not None:
                part[rows] = value
        if out is not None:
            self.out.weight[:, rows] = out

    @torch.no_grad()
    def prefer(self, head, scores):
        """Adds to a head's scores about scores[i] for keys that hold component i, by way of the slowest rotary pair."""
        row = head * self.d + self.d // 2 - 1
        self.q.weight[row] = 0
        self.q.bias[row] = 8.0
        self.k.weight[row] = scores / 3.0
        self.k.bias[row] = 0

    @torch.no_grad()
    def free_content(self, freqs):
        """Content heads start on the slow rotary pairs, where a match does not depend on where the two tokens stand."""
        fast = (freqs > 0.02).repeat(2).repeat(self.heads)
        self.q.weight[fast] *= 0.1
        self.k.weight[fast] *= 0.1

    def split(self, x):
        return x.unflatten(-1, (self.heads, self.d)).transpose(-3, -2)

    def qkv(self, x, rope):
        h = self.attn_norm(x)
        return rotate(self.split(self.q(h)), *rope), rotate(self.split(self.k(h)), *rope), self.split(self.v(h))

    def mlp(self, x):
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))

    def forward(self, prefix, rope, asked, rope2, last):
        q, k, v = self.qkv(prefix, rope)                                   # [B, H, P, d]
        if not last:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            after = self.mlp(prefix + self.out(mixed.transpose(1, 2).flatten(2)))
        else:
            after = prefix
        if asked is None:
            return after, None
        b, n, length, _ = asked.shape
        q2, k2, v2 = self.qkv(asked, rope2)                                # [B, Q, H, L, d]
        flat = q2.transpose(1, 2).flatten(2, 3)                            # [B, H, Q * L, d]
        far = (flat @ k.mT).unflatten(2, (n, length)).transpose(1, 2)      # [B, Q, H, L, P]
        near = (q2 @ k2.mT).masked_fill(self.future(length, q2.device), -torch.inf)
        p = torch.cat([far, near], -1).mul(self.d ** -0.5).softmax(-1)
        far, near = p.split([k.shape[2], length], -1)
        mixed = (far.transpose(1, 2).flatten(2, 3) @ v).unflatten(2, (n, length)).transpose(1, 2) + near @ v2
        return after, self.mlp(asked + self.out(mixed.transpose(2, 3).flatten(3)))

    @staticmethod
    def future(n, device):
        return torch.ones(n, n, dtype=torch.bool, device=device).triu(1)


class Encoder(nn.Module):
    """qwen2vl vision tower and merger: [B, 3, H, W] pixels (normalised) to [B, tokens, width] embeddings."""

    def __init__(self, s):
        super().__init__()
        self.shape = s
        self.patch = nn.Linear(3 * s.patch ** 2, s.vit_width, bias=False)
        self.blocks = nn.ModuleList([VitBlock(s) for _ in range(s.vit_layers)])
        self.post = nn.LayerNorm(s.vit_width, 1e-6)
        self.merge0 = nn.Linear(4 * s.vit_width, 4 * s.vit_width)
        self.merge2 = nn.Linear(4 * s.vit_width, s.width)
        quarter = s.vit_width // s.vit_heads // 4
        self.register_buffer("freqs", 10000.0 ** (-torch.arange(quarter) / quarter), persistent=False)
        for layer, reach in zip(self.blocks, VIT_HEADS):
            for head, (dy, dx) in enumerate(reach):
                offset = torch.tensor([dy] * quarter + [dx] * quarter, dtype=torch.float)
                f = self.freqs.repeat(2)
                layer.point(head, *offset_bias(f, offset, 6.0 * (f > 0.05)))

    def angles(self, rows, cols, device):
        """Rotary angles of the patches in merge order: 2x2 blocks row by row, (dy, dx) inside."""
        y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(cols, device=device), indexing="ij")
        y, x = merge_order(y[None, ..., None]).flatten(), merge_order(x[None, ..., None]).flatten()
        a = torch.cat([y[:, None] * self.freqs, x[:, None] * self.freqs], -1)
        return a.cos(), a.sin()

    def forward(self, pixels):
        p = self.shape.patch
        b, _, h, w = pixels.shape
        rows, cols = h // p, w // p
        x = pixels.reshape(b, 3, rows, p, cols, p).permute(0, 2, 4, 1, 3, 5).reshape(b, rows, cols, 3 * p * p)
        x = self.patch(merge_order(x))
        rope = self.angles(rows, cols, x.device)
        for block in self.blocks:
            x = block(x, rope)
        x = self.post(x).reshape(b, rows * cols // 4, -1)
        return self.merge2(F.gelu(self.merge0(x)))


# (dy, dx) in patches, query minus key
VIT_HEADS = [[(-1, 0), (1, 0), (0, -1), (0, 1)], [(-1, 0), (1, 0), (0, -1), (0, 1)], [(-2, 0), (2, 0), (0, -2), (0, 2)]]


def merge_order(x):
    """[B, rows, cols, C] to [B, rows * cols, C] in 2x2 blocks."""
    b, r, c, n = x.shape
    return x.reshape(b, r // 2, 2, c // 2, 2, n).permute(0, 1, 3, 2, 4, 5).reshape(b, r * c, n)


class VitBlock(nn.Module):
    """Pre-norm ViT layer with quick-GELU."""

    def __init__(self, s):
        super().__init__()
        self.heads, self.d = s.vit_heads, s.vit_width // s.vit_heads
        self.ln1, self.ln2 = nn.LayerNorm(s.vit_width, 1e-6), nn.LayerNorm(s.vit_width, 1e-6)
        self.q, self.k, self.v, self.out = (nn.Linear(s.vit_width, s.vit_width) for _ in range(4))
        self.up, self.down = nn.Linear(s.vit_width, s.vit_ffn), nn.Linear(s.vit_ffn, s.vit_width)

    point = Block.point
    split = Block.split

    def forward(self, x, rope):
        h = self.ln1(x)
        q, k, v = rotate(self.split(self.q(h)), *rope), rotate(self.split(self.k(h)), *rope), self.split(self.v(h))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = self.up(self.ln2(x))
        return x + self.down(h * torch.sigmoid(1.702 * h))


CODE = 21                                    # figures in a character's code; width 256 holds twelve codes and a few marks
BLANK, TEXT, PICTURE = 252, 253, 254         # marks: a picture token without characters; a text token; a picture token


def codes(width, seed=1):
    """[5, 128, width] codes of the characters of a token: CODE figures a character (spread evenly over directions, length 4),
    in the places of labels(). Character 0 (none) is zero. The encoder learns to give their sum, the decoder to read it; text
    tokens use the same codes."""
    g = torch.Generator().manual_seed(seed)
    each = F.normalize(torch.randn(128, CODE, generator=g), dim=-1)
    for _ in range(200):                                                   # push apart: steepest descent on sum exp(8 cos)
        push = (8 * each @ each.T).fill_diagonal_(-torch.inf).exp()
        each = F.normalize(each - 0.2 * F.normalize(push @ each, dim=-1), dim=-1)
    table = torch.zeros(5, 128, width)
    for s in range(5):
        table[s, 1:, s * CODE:(s + 1) * CODE] = 4 * each[1:]
    return table


def ideal_embedding(marks, table):
    """[..., width] embedding of tokens with labels [..., 5]: the first, second and third character whose middle is in the
    token, the last of them, and the one ahead of the last in its word, wherever that stands; 0 is none."""
    total = sum(table[s][marks[..., s]] for s in range(marks.shape[-1]))
    total[..., BLANK] += 4 * (marks[..., 0] == 0)
    total[..., PICTURE] += 8
    return total
