"""One stage of training, resumable:
train.py --stage encoder|decoder|places|joint --minutes M --out DIR [--device cuda].

encoder: pictures crammed with text, to the characters in each token. decoder: laid-out pages as symbols, to answers, on
pages that grow as the accuracy does. places: fits.wire_places() on a decoder that copies already. joint: both, on
pictures. Each run ends with the rate decayed, saves DIR/<stage>.pt, and starts from it (joint starts from the other
two) if it is there; places works on decoder.pt.
"""

import argparse
import os
import pickle
import random
import time
from pathlib import Path

import data
import pages
import torch
import torch.nn.functional as F
from fits import wire_places
from machine import prepare
from model import Decoder, Encoder, Shape
from pointers import free
from wiring import BEGINS, USED, codes, ideal_embedding, noisy, wire

SLOW = 0.2  # of the rate, for what the places' heads read
LEVELS = [(8, 5), (10, 8), (14, 10), (18, 14), None]  # page sizes in tokens; None: pages.SIZES


class Trainer:
    """Parameters, two optimisers (Muon for matrices, AdamW for the rest), a rate that falls over the last part."""

    def __init__(self, args, modules):
        self.args, self.modules, self.start, self.step = args, modules, time.time(), 0
        named = [(n, p) for m in modules.values() for n, p in m.named_parameters() if p.requires_grad]
        decoder, self.masks, ahead = modules.get("decoder"), [], set()
        if decoder is not None and decoder.embed.weight[:, USED:].any():  # its places are wired: they stay as they are
            masks = free(decoder)
            self.masks = [(p, masks[n]) for n, p in decoder.named_parameters()]
            ahead = {decoder.embed.weight, *decoder.blocks[0].parameters(), *decoder.blocks[1].parameters()}

        def groups(params):
            fast, slow = [p for p in params if p not in ahead], [p for p in params if p in ahead]
            split = [(fast, args.rate), (slow, SLOW * args.rate)]
            return [{"params": ps, "lr": rate, "rate": rate} for ps, rate in split if ps]

        matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in named if p.ndim != 2 or "embed" in n]
        self.optimizers = [
            torch.optim.Muon(
                groups(matrices), momentum=0.95, weight_decay=0.0, ns_steps=4, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(groups(others), betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.params = matrices + others

    def spent(self):
        return (time.time() - self.start) / (60 * self.args.minutes)

    def update(self, loss):
        loss.backward()
        for p, mask in self.masks:
            if p.grad is not None:
                p.grad *= mask
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.step += 1
        factor = min(1.0, self.step / 10) * min(1.0, max(0.02, (1 - self.spent()) / 0.4))
        for o in self.optimizers:
            for g in o.param_groups:
                g["lr"] = g["rate"] * factor
            o.step()
            o.zero_grad(set_to_none=True)


def save(path, **state):
    torch.save(state, str(path) + ".tmp")
    os.replace(str(path) + ".tmp", path)


def log(args, text):
    line = f"{time.strftime('%H:%M:%S')} {text}"
    print(line, flush=True)
    with open(args.out / f"{args.stage}.log", "a") as f:
        f.write(line + "\n")


def slot_logits(out, table):
    """[N, S, 128] scores of each character in each slot for embeddings [N, E]; 'none' wins under half a code."""
    scores = torch.einsum("ne,sce->nsc", out, table)
    none = 0.5 * (table[:, 65:91] ** 2).sum(-1).mean()
    return torch.cat([none.expand_as(scores[..., :1]), scores[..., 1:]], -1)


def encoder_loss(out, marks, table):
    """Cross entropy per slot plus distance to the ideal embedding; also the shares of inked slots, and of inked
    squares, read right. out [B, T, E], marks [B, T, 6]."""
    out, marks = out.flatten(0, 1), marks.flatten(0, 1)
    ideal, scores = ideal_embedding(marks, table), slot_logits(out, table)
    begins, marks = marks[:, 5] > 0, marks[:, :5]
    inked = marks > 0
    every = F.cross_entropy(scores.flatten(0, 1), marks.flatten(), reduction="none").view_as(marks)
    weight = torch.where(inked, 1.0, 0.3)
    distance = ((out - ideal) ** 2).mean() / (table[:, 65] ** 2).mean()
    good = scores.argmax(-1) == marks
    right = (good & inked).sum() / inked.sum().clamp(min=1)
    whole = (good.all(-1) & ((out[:, BEGINS] > 2) == begins))[inked.any(-1)].float().mean()
    return (every * weight).sum() / weight.sum() + 0.5 * distance, right.item(), whole.item()


def answer(decoder, batch, image, device, positions=None):
    """Weighted next-token loss and, per question, whether every answer token is the likeliest."""
    ids, weights = batch.ids.to(device), batch.weights.to(device)
    n = len(ids)
    around = [decoder.embed(torch.tensor(x, device=device)).expand(n, -1, -1) for x in (data.HEAD, data.TAIL)]
    prefix_pos, asked_pos = data.positions(batch.cols, batch.rows, ids.shape[2])
    hidden = decoder(
        torch.cat([around[0], image, around[1]], 1), prefix_pos.to(device), decoder.embed(ids), asked_pos.to(device)
    )
    used = weights[..., :-1] > 0
    scores = decoder.logits(hidden[..., :-1, :][used])
    target, weight = ids[..., 1:][used], weights[..., :-1][used]
    loss = (F.cross_entropy(scores, target, reduction="none") * weight).sum() / weight.sum()
    wrong = torch.zeros(ids.shape[:2], device=device)
    index = used.nonzero()[:, :2]
    miss = (scores.argmax(-1) != target) & (weight == 1)
    wrong.index_put_((index[:, 0], index[:, 1]), miss.float(), accumulate=True)
    share = 1 - miss.float().sum() / (weight == 1).sum()
    return loss, wrong.cpu() == 0, share.item()


class Stream(torch.utils.data.IterableDataset):
    """Endless batches of make(rng, level), in worker processes if there are many; the level can change under way."""

    def __init__(self, make, args, level=0):
        self.make, self.args, self.level = make, args, torch.tensor(level).share_memory_()

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        torch.set_num_threads(self.args.threads or torch.get_num_threads())
        rng = random.Random((self.args.seed or time.time_ns()) + (worker.id if worker else 0))
        while True:
            made = self.make(rng, int(self.level))
            yield pickle.dumps(made) if worker else made  # bytes: no need of much shared memory

    def batches(self):
        loader = torch.utils.data.DataLoader(
            self, batch_size=None, num_workers=self.args.workers, collate_fn=lambda x: x
        )
        for made in loader:
            yield pickle.loads(made) if self.args.workers else made


def draw_batch(rng, level, budget, mix, split="train"):
    """A batch of about `budget` tokens at a curriculum level: of texts (long answers), or of the other kinds."""
    size = LEVELS[level] or rng.choice(pages.SIZES)
    short = {k: v for k, v in mix.items() if k != "text"}
    mix = {"text": 1} if rng.random() * sum(mix.values()) >= sum(short.values()) else short
    per_page = 3 if "text" in mix else [4, 6, 8, 10, 12][level]
    each = size[0] * size[1] + per_page * (60 if "text" in mix else 34)
    return data.Batch(rng, mix, split, *size, max(1, budget // each), per_page, longest=96)


@torch.no_grad()
def measure(decoder, embed, device, level, count, seed=9, budget=3000, kinds=tuple(pages.LAYOUTS)):
    """Share of right answers per kind on test pages, at least `count` each, teacher-forced: right if each token is."""
    tally = {}
    for kind in kinds:
        rng, right, n = random.Random(f"{seed}{kind}"), 0, 0
        while n < count:
            batch = draw_batch(rng, level, budget, {kind: 1}, "test")
            _, good, _ = answer(decoder, batch, embed(batch), device)
            for row, asks in zip(good.tolist(), batch.asks):
                for ok, ask in zip(row, asks):
                    if ask[0] == kind:
                        right, n = right + ok, n + 1
        tally[kind] = round(right / n, 3)
    return tally


def train_encoder(args, device):
    table, encoder = codes(Shape.width).to(device), Encoder(Shape()).to(device)
    path = args.out / "encoder.pt"
    if path.exists():
        encoder.load_state_dict(torch.load(path, map_location=device)["encoder"])
    before = {n: p.clone() for n, p in encoder.state_dict().items()}
    t, told, seen = Trainer(args, {"encoder": encoder}), time.time(), []

    def make(rng, _):
        if rng.random() < args.whole:  # real pages, mostly small ones: more characters a square, faster attention
            cols, rows = rng.choices([*LEVELS[:3], rng.choice(pages.SIZES)], [4, 3, 2, 1])[0]
            return data.page_batch(rng, cols, rows, max(1, args.budget // (cols * rows)))
        return data.dense_batch(rng, 10, 8, max(1, args.budget // 80))

    stream = Stream(make, args).batches()
    while t.spent() < 1:
        pixels, symbols = next(stream)
        image = encoder(data.normalised(pixels.to(device)))
        loss, right, tokens = encoder_loss(image, symbols.to(device), table)
        t.update(loss)
        seen = (seen + [(loss.item(), right, tokens)])[-50:]
        if time.time() - told > args.tell:
            told = time.time()
            mean = [sum(c) / len(seen) for c in zip(*seen)]
            log(args, f"step {t.step} loss {mean[0]:.3f} characters {mean[1]:.4f} tokens {mean[2]:.4f}")
            save(path, encoder=encoder.state_dict())
    save(path, encoder=mean_if_better(args, encoder, before, table, device))


@torch.no_grad()
def mean_if_better(args, encoder, before, table, device):
    """The mean of the weights that a stage began and ended with, or those of its end: whose loss on 60 pages is less.
    Two minima that lie together average to a better one (Wortsman et al. 2022, model soups)."""
    rng, after = random.Random(0), encoder.state_dict()
    made = [data.page_batch(rng, *rng.choice(pages.SIZES), 2) for _ in range(30)]
    found = []
    for state in (after, {n: (p + before[n]) / 2 for n, p in after.items()}):
        state = {n: p.clone() for n, p in state.items()}
        encoder.load_state_dict(state)
        read = [encoder_loss(encoder(data.normalised(p.to(device))), s.to(device), table) for p, s in made]
        loss, _, tokens = [sum(float(v) for v in c) / len(read) for c in zip(*read)]
        log(args, f"{'mean of begin and end' if found else 'end'}: loss {loss:.4f} tokens {tokens:.4f}")
        found.append((loss, state))
    return min(found, key=lambda f: f[0])[1]


def train_decoder(args, device):
    table, decoder = codes(Shape.width), Decoder(Shape())
    path, level, score = args.out / "decoder.pt", args.level, 0.0
    wire(decoder, table)
    table, decoder = table.to(device), decoder.to(device)
    if path.exists():
        state = torch.load(path, map_location=device)
        decoder.load_state_dict(state["decoder"])
        level = max(level, state["level"])
    t, told, seen = Trainer(args, {"decoder": decoder}), time.time() - args.tell + 40, []

    def embed(batch, noise=0.0):
        return noisy(ideal_embedding(batch.symbols.to(device), table), noise)

    def make(rng, level):
        here = level if rng.random() < 0.8 else rng.randrange(level + 1)
        return here, draw_batch(rng, here, args.budget, args.mix)

    source = Stream(make, args, level)
    stream = source.batches()
    while t.spent() < 1:
        here, batch = next(stream)
        loss, good, share = answer(decoder, batch, embed(batch, args.noise), device)
        t.update(loss)
        if here == level:
            score += 0.08 * (good.float().mean().item() - score)
            seen = (seen + [(loss.item(), share, good.float().mean().item())])[-50:]
        if score > args.grow and level < len(LEVELS) - 1 and len(seen) >= 25:
            log(args, f"step {t.step} level {level} passed")
            level, score, seen = level + 1, 0.0, []
            source.level.fill_(level)
        if time.time() - told > args.tell and seen:
            told = time.time()
            mean = [sum(c) / len(seen) for c in zip(*seen)]
            log(
                args,
                f"step {t.step} level {level} loss {mean[0]:.3f} tokens {mean[1]:.3f} answers {mean[2]:.3f}"
                f" | test here {measure(decoder, embed, device, level, 20)}",
            )
            save(path, decoder=decoder.state_dict(), level=level)
    log(args, f"test, full size {measure(decoder, embed, device, len(LEVELS) - 1, 60)}")
    save(path, decoder=decoder.state_dict(), level=level)


def place_decoder(args, _):
    """Wires decoder.pt's second circuit; where it was wired before, fits it anew to what the first has become."""
    path = args.out / "decoder.pt"
    state = torch.load(path, map_location="cpu")
    decoder, rng = Decoder(Shape()), random.Random(args.seed or time.time_ns())
    decoder.load_state_dict(state["decoder"])

    def draw(kind, count):
        return [draw_batch(rng, len(LEVELS) - 1, 4000, {kind: 1}) for _ in range(count)]

    wire_places(decoder, codes(Shape.width), draw, args.minutes, lambda text: log(args, text))
    save(path, **state | {"decoder": decoder.state_dict()})


def train_joint(args, device):
    table = codes(Shape.width).to(device)
    encoder, decoder = Encoder(Shape()).to(device), Decoder(Shape()).to(device)
    path = args.out / "joint.pt"
    if path.exists():
        state = torch.load(path, map_location=device)
    else:
        state = {h: torch.load(args.out / f"{h}.pt", map_location=device)[h] for h in ("encoder", "decoder")}
    encoder.load_state_dict(state["encoder"])
    decoder.load_state_dict(state["decoder"])
    encoder.requires_grad_(not args.frozen)
    t, told, seen = Trainer(args, {"encoder": encoder, "decoder": decoder}), time.time(), []

    def embed(batch):
        return encode(batch.pixels())

    def encode(pixels):
        return encoder(data.normalised(pixels.to(device)))

    def make(rng, level):
        batch = draw_batch(rng, level, args.budget, args.mix)
        return batch, batch.pixels()

    stream = Stream(make, args, len(LEVELS) - 1).batches()
    while t.spent() < 1:
        batch, pixels = next(stream)
        with torch.set_grad_enabled(not args.frozen):
            image = encode(pixels)
        loss, good, share = answer(decoder, batch, image, device)
        extra, _, tokens = encoder_loss(image, batch.symbols.to(device), table)
        t.update(loss if args.frozen else loss + args.anchor * extra)
        seen = (seen + [(loss.item(), share, good.float().mean().item(), tokens)])[-50:]
        if time.time() - told > args.tell:
            told = time.time()
            mean = [sum(c) / len(seen) for c in zip(*seen)]
            log(
                args,
                f"step {t.step} loss {mean[0]:.3f} tokens {mean[1]:.3f} answers {mean[2]:.3f}"
                f" squares {mean[3]:.3f} | test {measure(decoder, embed, device, len(LEVELS) - 1, 20)}",
            )
            save(path, encoder=encoder.state_dict(), decoder=decoder.state_dict())
    log(args, f"test {measure(decoder, embed, device, len(LEVELS) - 1, 100)}")
    save(path, encoder=encoder.state_dict(), decoder=decoder.state_dict())


def parse_mix(text):
    """'form=4,text=1' as {'form': 4.0, 'text': 1.0}."""
    mix = {k: float(v) for k, v in (part.split("=") for part in text.split(","))}
    unknown = set(mix) - set(pages.LAYOUTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown kinds {sorted(unknown)}; there are {sorted(pages.LAYOUTS)}")
    return mix


def main():
    prepare()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--stage", choices=["encoder", "decoder", "places", "joint"], required=True)
    p.add_argument("--minutes", type=float, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--seed", type=int, default=0, help="0: the clock")
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--budget", type=int, default=3000, help="tokens a step")
    p.add_argument("--workers", type=int, default=0, help="processes that draw pages; with a GPU one per CPU core")
    p.add_argument("--noise", type=float, default=0.12, help="decoder: most noise on the symbols' embeddings")
    p.add_argument("--tell", type=float, default=60, help="seconds between log lines")
    p.add_argument("--level", type=int, default=0, help="decoder: page size to start at")
    p.add_argument("--grow", type=float, default=0.8, help="decoder: share of right answers that makes pages grow")
    p.add_argument("--whole", type=float, default=0.0, help="encoder: share of real pages")
    p.add_argument("--anchor", type=float, default=0.3, help="joint: weight of the character loss")
    p.add_argument(
        "--mix",
        type=parse_mix,
        default="form=4,place=3,text=2.5,ground=1.5,chart=1.5",
        help="weights of the kinds of pages",
    )
    p.add_argument("--frozen", action="store_true", help="joint: leave the encoder as it is")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    # on a GPU, TF32: position scores need its 10 bits; on a CPU bfloat16 products, sums and scores in float32
    torch.set_float32_matmul_precision("medium" if args.device == "cpu" else "high")
    if args.seed:
        torch.manual_seed(args.seed)
    stages = {"encoder": train_encoder, "decoder": train_decoder, "places": place_decoder, "joint": train_joint}
    stages[args.stage](args, torch.device(args.device))


if __name__ == "__main__":
    main()
