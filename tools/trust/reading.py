"""How much of the built-in pages a model reads, whole cache, greedily.

reading.py MODEL.gguf MMPROJ.gguf [--first 1000] [--count 200]: test pages of every kind by the judge of
tools/train/pages.py, as a Markdown table.
"""

from common import load, pages, parser, share


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--first", type=int, default=1000, help="seed of the first page")
    p.set_defaults(kinds="form,place,text,ground,chart,chat", count=200)
    args = p.parse_args()
    model = load(args)
    print("| kind | pages | right, % |\n| --- | ---: | ---: |")
    for kind in args.kinds.split(","):
        right = 0
        for seed in range(args.first, args.first + args.count):
            image, question, answer, box = pages.make_item(kind, seed, "test")
            with model.session() as session:
                given = session.chat(question, images=[image], max_tokens=96).text.strip()
            right += pages.is_right(kind, answer, given, box, image.size)
        print(f"| {kind} | {args.count} | {share(right, args.count)} |", flush=True)


if __name__ == "__main__":
    main()
