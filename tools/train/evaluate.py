"""Accuracy of a checkpoint on test pictures, kind by kind, by greedy decoding: evaluate.py CHECKPOINT [--count 200].

Pictures are drawn from other seeds and other words than the training's. A Markdown table goes to stdout.
"""

import argparse

import data
import pages
import tokenizer as tk
import torch
from machine import prepare
from model import Decoder, Encoder, shape_of

QUESTION = "{}<|im_end|>\n<|im_start|>assistant\n"


class Model:
    """Both halves of a checkpoint, answering one question about one picture."""

    def __init__(self, path, device):
        state = torch.load(path, map_location=device)
        shape = shape_of(state["decoder"])
        self.encoder, self.decoder, self.device = Encoder(shape).to(device), Decoder(shape).to(device), device
        self.encoder.load_state_dict(state["encoder"])
        self.decoder.load_state_dict(state["decoder"])

    @torch.no_grad()
    def answer(self, image, question, guess="", most=96):
        """Greedy answer text. Tokens of `guess` that are the likeliest ones cost no step of their own: a right guess,
        one step in all. The page is read again in every step: slow and plain."""
        picture = self.encoder(data.normalised(data.to_pixels([image]).to(self.device)))
        cols, rows = image.width // pages.TOKEN, image.height // pages.TOKEN
        ids, done = tk.encode(QUESTION.format(question)), tk.encode(guess)
        head, tail = (self.decoder.embed(torch.tensor([x], device=self.device)) for x in (data.HEAD, data.TAIL))
        prefix, known = torch.cat([head, picture, tail], 1), 0
        while True:
            at, after = data.positions(cols, rows, len(ids) + len(done))
            said = self.decoder.embed(torch.tensor([[ids + done]], device=self.device))
            hidden = self.decoder(prefix, at.to(self.device), said, after.to(self.device))
            best = self.decoder.logits(hidden[0, 0, len(ids) - 1 :]).argmax(-1).tolist()
            while known < len(done) and done[known] == best[known]:
                known += 1
            done = done[:known] + [best[known]]
            known += 1
            if done[-1] == tk.IM_END or known >= most:
                return tk.decode(done)


def main():
    prepare()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint")
    p.add_argument("--count", type=int, default=200, help="pictures per kind")
    p.add_argument("--kinds", default=",".join(pages.KINDS))
    p.add_argument("--wrong", type=int, default=0, help="print this many wrong answers of each kind")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    model, rows = Model(args.checkpoint, args.device), []
    for kind in args.kinds.split(","):
        right, shown = 0, 0
        for seed in range(args.count):
            image, question, answer, box = pages.make_item(kind, seed, "test")
            given = model.answer(image, question, answer)
            ok = pages.is_right(kind, answer, given, box, image.size)
            right += ok
            if not ok and shown < args.wrong:
                shown += 1
                print(f"{kind} {seed}: {question} -> {given!r}, expected {answer!r}")
        rows.append(f"| {kind} | {100 * right / args.count:.1f} % | {right} / {args.count} |")
    print("\n".join(["| kind | right | of |", "|---|---|---|", *rows]))


if __name__ == "__main__":
    main()
