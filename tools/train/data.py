"""Batches: pages with many questions each, as symbols (characters in each token) or as pictures."""

import numpy as np
import pages
import tokenizer as tk
import torch

HEAD = tk.encode("<|im_start|>user\n<|vision_start|>")
TAIL = [tk.VISION_END]
SLOTS = 3
QUOTE = ord('"')
ALNUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def question_ids(question, answer):
    """(ids, weights) of the turn after the picture: weight 1 on the answer, a little on a quoted name, which the page
    spells."""
    ask = tk.encode(question + "<|im_end|>\n<|im_start|>assistant\n")
    reply = tk.encode(answer + "<|im_end|>")
    weights, quoted = [], False
    for before in ask[:-1]:
        if before == QUOTE:
            quoted = not quoted
        weights.append(0.3 if quoted and before != QUOTE else 0.0)
    return ask + reply, weights + [1.0] * len(reply) + [0.0]


def positions(cols, rows, length):
    """M-RoPE positions [3, P] of the part up to and with <|vision_end|>, and [3, length] of a question after it."""
    start, span = len(HEAD), max(rows, cols)
    text = torch.arange(start).expand(3, -1)
    grid = torch.stack(
        [
            torch.full((rows * cols,), start),
            start + torch.arange(rows).repeat_interleave(cols),
            start + torch.arange(cols).repeat(rows),
        ]
    )
    tail = torch.tensor([start + span]).expand(3, -1)
    return torch.cat([text, grid, tail], 1), torch.arange(start + span + 1, start + span + 1 + length).expand(3, -1)


def symbols_of(page):
    """[tokens, 6] labels of a page, as wiring.ideal_embedding wants them."""
    rows = []
    for cell in pages.slots(page, SLOTS):
        inside = [c for c, _ in cell] + [0] * (SLOTS - len(cell))
        rows.append(inside + (list(cell[-1]) if cell else [0, 0]) + [int(bool(cell) and cell[0][1] == 0)])
    return torch.tensor(rows)


class Batch:
    """n pages of one size: symbols [n, tokens, 6], ids and weights [n, Q, L], kinds and boxes as lists."""

    def __init__(self, rng, mix, split, cols, rows, n, per_page, longest=96):
        self.pages, self.cols, self.rows, chosen = [], cols, rows, []
        names, odds = list(mix), list(mix.values())
        while len(self.pages) < n:
            page = pages.make_page(rng.choices(names, odds)[0], rng, split, cols, rows)
            asks = page.qa + [pages.chat(page, rng)]
            if page.kind != "ground":
                extra = pages.Page(page.kind, cols, rows)
                for run in rng.sample(page.runs, min(2, len(page.runs))):
                    if len([r for r in page.runs if r.text == run.text]) == 1 and " " not in run.text:
                        pages.where(extra, rng, run)
                asks = asks + extra.qa
            asks = [(a, question_ids(a[1], a[2])) for a in asks]
            asks = [a for a in asks if len(a[1][0]) <= longest]
            picked = rng.sample(asks, min(per_page, len(asks)))
            while len(picked) < per_page:
                picked.append(rng.choice(asks))
            self.pages.append(page)
            chosen.append(picked)
        length = max(len(ids) for page in chosen for _, (ids, _) in page)

        def pad(row, fill, length=length):
            return row + [fill] * (length - len(row))

        self.ids = torch.tensor([[pad(ids, tk.ENDOFTEXT) for _, (ids, _) in page] for page in chosen])
        self.weights = torch.tensor([[pad(weights, 0.0) for _, (_, weights) in page] for page in chosen])
        self.symbols = torch.stack([symbols_of(p) for p in self.pages])
        self.asks = [[a for a, _ in page] for page in chosen]

    def pixels(self):
        """[n, 3, H, W] bytes."""
        return to_pixels([pages.draw(p) for p in self.pages])


def to_pixels(images):
    """[n, 3, H, W] bytes of pictures of one size."""
    return torch.from_numpy(np.stack([np.asarray(im) for im in images])).permute(0, 3, 1, 2).contiguous()


def normalised(pixels):
    """Bytes to -1..1: mean and deviation 0.5, as the mmproj file says."""
    return pixels.float() / 127.5 - 1


def dense_page(rng, cols, rows):
    """A page crammed with characters in all fonts, for the encoder alone."""
    page = pages.Page("dense", cols, rows)
    style = pages.Style(rng, 17, 25)
    page.paper, y, size = style.paper, rng.uniform(-4, 20), rng.randint(17, 25)
    while y < page.height + 6:
        if rng.random() < 0.3:
            style.font = rng.randrange(len(pages.font_paths()))
        x = rng.uniform(-12, 30)
        while x < page.width:
            kind = rng.random()
            if kind < 0.5:
                text = pages.words.word(rng, "train", 9)
            elif kind < 0.8:
                text = pages.words.value(rng, "train", 9)
            else:
                some = pages.CHARS if rng.random() < 0.3 else ALNUM
                text = "".join(rng.choice(some) for _ in range(rng.randint(1, 6)))
            run = style.run(text, x, y, size=size)
            if rng.random() < 0.15:
                pad = rng.uniform(1, 7)
                b = (x - pad, y - size * 0.6 - pad, x + run.width + pad, y + size * 0.6 + pad)
                page.shapes.append((rng.choice(["box", "round"]), b, pages.shade(rng, page.paper), pages.grey(rng)))
            page.runs.append(run)
            x += run.width + size * rng.choice([0.28, 0.28, 0.6, 1.5, 4])
        above, size = size, rng.randint(17, 25)
        step = max(above, size) * rng.uniform(1.1, 1.6)
        if rng.random() < 0.1:
            page.shapes.append(("line", (0, y + step / 2, page.width, y + step / 2), None, pages.grey(rng)))
        y += step
    return page


def dense_batch(rng, cols, rows, n):
    """(pixels, symbols) of n dense pages."""
    made = [pages.settle(dense_page(rng, cols, rows)) for _ in range(n)]
    return to_pixels([pages.draw(p) for p in made]), torch.stack([symbols_of(p) for p in made])


def page_batch(rng, cols, rows, n):
    """(pixels, symbols) of n pages of all kinds, as the decoder will meet them."""
    made = [pages.make_page(rng.choice(list(pages.LAYOUTS)), rng, "train", cols, rows) for _ in range(n)]
    return to_pixels([pages.draw(p) for p in made]), torch.stack([symbols_of(p) for p in made])
