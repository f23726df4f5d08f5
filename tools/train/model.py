"""The two halves in PyTorch, shaped as llama.cpp's qwen2vl: a text decoder with M-RoPE and a ViT with a 2x2 merger.

The ViT starts local: each head looks at one neighbour of its patch. The decoder is wired by wiring.wire().
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizer import N_VOCAB
from torch import nn
from wiring import USED, offset_bias, point

IMAGE_MEAN, IMAGE_STD = [0.5] * 3, [0.5] * 3


@dataclass
class Shape:
    """Sizes of both halves. sections: rotary pairs for the t, h and w positions; they sum to head_dim / 2."""

    width: int = 320
    layers: int = 8
    heads: int = 5
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


def shape_of(state):
    """The shape of a decoder's saved state, heads being of the usual size."""
    width, layers = state["embed.weight"].shape[1], 1 + max(int(k.split(".")[1]) for k in state if "blocks." in k)
    heads = width // Shape().head_dim
    return Shape(width=width, layers=layers, heads=heads, ffn=state["blocks.0.gate.weight"].shape[0])


def rotate(x, cos, sin):
    """Half-split rotation; x [..., d], cos and sin broadcast over [..., d / 2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


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

    def split(self, x):
        return x.unflatten(-1, (self.heads, self.d)).transpose(-3, -2)

    def qkv(self, x, rope):
        h = self.attn_norm(x)
        return rotate(self.split(self.q(h)), *rope), rotate(self.split(self.k(h)), *rope), self.split(self.v(h))

    def mlp(self, x):
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))

    def forward(self, prefix, rope, asked, rope2, last):
        prefix, asked = self.attend(prefix, rope, asked, rope2, last)
        return prefix if last else self.mlp(prefix), None if asked is None else self.mlp(asked)

    def attend(self, prefix, rope, asked, rope2, last):
        """The attention half of the layer; in the last one the prefix is no longer needed."""
        q, k, v = self.qkv(prefix, rope)  # [B, H, P, d]
        if not last:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            after = prefix + self.out(mixed.transpose(1, 2).flatten(2))
        else:
            after = prefix
        if asked is None:
            return after, None
        _, n, length, _ = asked.shape
        q2, k2, v2 = self.qkv(asked, rope2)  # [B, Q, H, L, d]
        flat = q2.transpose(1, 2).flatten(2, 3)  # [B, H, Q * L, d]
        far = (flat @ k.mT).unflatten(2, (n, length)).transpose(1, 2)  # [B, Q, H, L, P]
        near = (q2 @ k2.mT).masked_fill(self.future(length, q2.device), -torch.inf)
        p = torch.cat([far, near], -1).mul(self.d**-0.5).softmax(-1)
        far, near = p.split([k.shape[2], length], -1)
        mixed = (far.transpose(1, 2).flatten(2, 3) @ v).unflatten(2, (n, length)).transpose(1, 2) + near @ v2
        return after, asked + self.out(mixed.transpose(2, 3).flatten(3))

    @staticmethod
    def future(n, device):
        return torch.ones(n, n, dtype=torch.bool, device=device).triu(1)


class Encoder(nn.Module):
    """qwen2vl vision tower and merger: [B, 3, H, W] pixels (normalised) to [B, tokens, width] embeddings."""

    def __init__(self, s):
        super().__init__()
        self.shape = s
        self.patch = nn.Linear(3 * s.patch**2, s.vit_width, bias=False)
        self.blocks = nn.ModuleList([VitBlock(s) for _ in range(s.vit_layers)])
        self.post = nn.LayerNorm(s.vit_width, 1e-6)
        self.merge0 = nn.Linear(4 * s.vit_width, 4 * s.vit_width)
        self.merge2 = nn.Linear(4 * s.vit_width, s.width)
        with torch.no_grad():  # the decoder's figures for places hear nothing of the picture
            self.merge2.weight[USED:], self.merge2.bias[USED:] = 0, 0
        for part in (self.merge2.weight, self.merge2.bias):
            part.register_hook(lambda g: torch.cat([g[:USED], torch.zeros_like(g[USED:])]))
        quarter = s.vit_width // s.vit_heads // 4
        self.register_buffer("freqs", 10000.0 ** (-torch.arange(quarter) / quarter), persistent=False)
        for layer, reach in zip(self.blocks, VIT_HEADS):
            for head, (dy, dx) in enumerate(reach):
                offset = torch.tensor([dy] * quarter + [dx] * quarter, dtype=torch.float)
                f = self.freqs.repeat(2)
                point(layer, head, *offset_bias(f, offset, 6.0 * (f > 0.05)))

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

    split = Block.split

    @staticmethod
    def mixed(q, k, v):
        """Attention; on small pages in training by bfloat16 products on a CPU: a third of the fused kernel's time."""
        if not torch.is_grad_enabled() or q.is_cuda or q.shape[-2] > 600:
            return F.scaled_dot_product_attention(q, k, v)
        q, k, v = (q * q.shape[-1] ** -0.5).bfloat16(), k.bfloat16(), v.bfloat16()
        return ((q @ k.mT).softmax(-1) @ v).float()

    def forward(self, x, rope):
        h = self.ln1(x)
        q, k, v = rotate(self.split(self.q(h)), *rope), rotate(self.split(self.k(h)), *rope), self.split(self.v(h))
        x = x + self.out(self.mixed(q, k, v).transpose(1, 2).flatten(2))
        h = self.up(self.ln2(x))
        return x + self.down(h * torch.sigmoid(1.702 * h))
