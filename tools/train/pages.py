"""Pages drawn by code, and questions about them: forms, words at places, texts, windows, charts. No torch in here.

A page is laid out first (which text stands where, in pixels) and drawn only if a picture is wanted: training the
decoder on the layout alone needs no picture. TOKEN is the side, in pixels, of the square that one image token covers.
"""

import functools
import importlib.util
import os
import random
from dataclasses import dataclass, field

import words
from PIL import Image, ImageDraw, ImageFont

TOKEN, CLEAR, ROW_CLEAR = 16, 2, 4  # no character's middle is nearer to the side, the top or the bottom of its token
SIZES = [(20, 20), (24, 18), (18, 24), (22, 20)]  # (columns, rows) in tokens: 400 to 440 tokens
KINDS = ["form", "place", "text", "ground", "chart", "chat"]
CHARS = [chr(c) for c in range(33, 127)]
FONT_DIRS = ["/usr/share/fonts/truetype/dejavu", "/usr/share/fonts/dejavu", "/usr/share/fonts/dejavu-sans-fonts"]
FONT_FILES = ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf"]
PLACES = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]


@functools.cache
def font_paths():
    """The DejaVu fonts of this machine; [None], Pillow's built-in font, where there are none."""
    plots = importlib.util.find_spec("matplotlib")  # ships the same fonts
    dirs = FONT_DIRS + ([os.path.join(os.path.dirname(plots.origin), "mpl-data", "fonts", "ttf")] if plots else [])
    for d in dirs:
        if all(os.path.exists(os.path.join(d, f)) for f in FONT_FILES):
            return [os.path.join(d, f) for f in FONT_FILES]
    return [None]


@functools.cache
def font(index, size):
    """Font `index` of font_paths() in a pixel size."""
    path = font_paths()[index]
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


@functools.cache
def advances(index):
    """Width of every printable character in the font, in units of the size."""
    big = font(index, 200)
    return {c: big.getlength(c) / 200 for c in [" ", *CHARS]}


def inward(v, clear=ROW_CLEAR):
    """A coordinate moved off the edges between tokens."""
    inside = v % TOKEN
    return v - inside + min(max(inside, clear), TOKEN - clear)


@dataclass
class Run:
    """One line of text; x is its left edge and y its middle, in pixels."""

    text: str
    x: float
    y: float
    font: int
    size: int
    color: tuple

    @property
    def width(self):
        adv = advances(self.font)
        return sum(adv[c] for c in self.text) * self.size

    def characters(self):
        """(character, left edge, width) of each, moved by up to CLEAR pixels so that its token is plain."""
        adv, x = advances(self.font), self.x
        for c in self.text:
            w = adv[c] * self.size
            yield c, x + inward(x + w / 2, CLEAR) - (x + w / 2), w
            x += w

    @property
    def box(self):
        return (int(self.x), int(self.y - 0.6 * self.size), int(self.x + self.width + 1), int(self.y + 0.6 * self.size))


@dataclass
class Page:
    """cols x rows in tokens; shapes are (kind, coordinates, fill, outline); qa are (kind, question, answer, box)."""

    kind: str
    cols: int
    rows: int
    runs: list = field(default_factory=list)
    shapes: list = field(default_factory=list)
    qa: list = field(default_factory=list)
    paper: tuple = (255, 255, 255)

    @property
    def width(self):
        return self.cols * TOKEN

    @property
    def height(self):
        return self.rows * TOKEN

    def ask(self, question, answer, *runs, kind=None):
        for r in runs:
            r.y = inward(r.y)
        boxes = [r.box for r in runs] or [(0, 0, self.width, self.height)]
        box = (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))
        self.qa.append((kind or self.kind, question, answer, box))


def ink_and_paper(rng):
    """A readable pair of colours: dark on light nine times in ten, else light on dark."""
    if rng.random() < 0.9:
        low, high = [rng.randint(0, 90) for _ in range(3)], [rng.randint(215, 255) for _ in range(3)]
        return tuple(low), tuple(high) if rng.random() < 0.7 else (255, 255, 255)
    return tuple(rng.randint(220, 255) for _ in range(3)), tuple(rng.randint(0, 80) for _ in range(3))


class Style:
    """Font, size and colours common to a page."""

    def __init__(self, rng, smallest=18, largest=24):
        self.ink, self.paper = ink_and_paper(rng)
        self.font, self.size = rng.randrange(len(font_paths())), rng.randint(smallest, largest)

    def run(self, text, x=0.0, y=0.0, **other):
        return Run(text, x, y, other.get("font", self.font), other.get("size", self.size), other.get("color", self.ink))


def line_height(rng, size):
    return max(TOKEN + 2.0, size * rng.uniform(1.15, 1.6))


def where(page, rng, run, name="text"):
    """The grounding question: the point as column and row of the square of TOKEN pixels that it is in, two figures
    each; the square's middle counts. None for a text narrower than a square."""
    if run.width < TOKEN:
        return
    answer = f"{int((run.box[0] + run.box[2]) / 2 // TOKEN):02d},{int(inward(run.y) // TOKEN):02d}"
    page.ask(f'Where is the {name} "{run.text}"?', answer, run, kind="ground")


def form(rng, split, cols, rows):
    """Keys with values to the right of them."""
    s = Style(rng)
    page = Page("form", cols, rows, paper=s.paper)
    step, y = line_height(rng, s.size), rng.uniform(0.5, 0.9) * s.size
    per_char = 0.62 * s.size
    room = int(page.width / per_char) - 2
    key_font = rng.randrange(len(font_paths())) if rng.random() < 0.3 else s.font
    colon = rng.choice([":", "", "", ""])
    column = rng.uniform(0.42, 0.55) * page.width if rng.random() < 0.5 else None
    right = column is not None and rng.random() < 0.2
    x0 = rng.uniform(2, 0.08 * page.width)
    seen = set()
    while y + 0.5 * s.size < page.height:
        for _ in range(12):
            longest = max(3, min(9, room // 2 - 1))
            key = s.run(words.word(rng, split, longest) + colon, x0, y, font=key_font)
            val = s.run(words.value(rng, split, max(3, min(9, room - len(key.text) - 1))), y=y)
            gap = rng.uniform(0.5, 2.5) * s.size
            val.x = max(column or 0, key.x + key.width + gap)
            if right:
                val.x = max(val.x, page.width - 4 - val.width)
            if val.x + val.width < page.width - 1 and key.text.lower() not in seen:
                seen.add(key.text.lower())
                page.runs += [key, val]
                name = key.text.removesuffix(":")
                question = rng.choice(['What is the value of "{}"?', 'What is "{}"?', 'Find "{}".'])
                page.ask(question.format(name), val.text, val)
                break
        if rng.random() < 0.25:
            page.shapes.append(("line", (0, y + step / 2, page.width, y + step / 2), None, grey(rng)))
        y += step * (1 if rng.random() < 0.8 else 2)
    return page


def place(rng, split, cols, rows):
    """Single words at some of nine places."""
    s = Style(rng)
    page = Page("place", cols, rows, paper=s.paper)
    wide, high = (3 if cols >= 15 else 2), (3 if rows >= 6 else 2)
    columns, lines = ([0, 1, 2] if wide == 3 else [0, 2]), ([0, 1, 2] if high == 3 else [0, 2])
    cells = [(r, c) for r in lines for c in columns]
    for r, c in sorted(rng.sample(cells, rng.randint(max(1, len(cells) // 2), len(cells)))):
        w, h = page.width / wide, page.height / high
        left, top = w * columns.index(c), h * lines.index(r)
        mine = Style(rng) if rng.random() < 0.3 else s
        color = s.ink if rng.random() < 0.7 else like(rng, s.ink)
        for _ in range(20):
            run = s.run(words.word(rng, split, int(w / (0.6 * mine.size))), font=mine.font, size=mine.size, color=color)
            if run.width < w - 4:
                run.x = left + rng.uniform(0.25, 0.75) * (w - 4 - run.width) + 2
                run.y = top + rng.uniform(0.35, 0.65) * (h - run.size) + run.size / 2
                page.runs.append(run)
                page.ask(f"What word is at the {PLACES[3 * r + c]}?", run.text, run)
                break
    return page


def text(rng, split, cols, rows):
    """A few lines of words; the answer is the whole text, lines joined by a space."""
    s = Style(rng)
    page = Page("text", cols, rows, paper=s.paper)
    step = line_height(rng, s.size)
    most = max(1, min(3, int((page.height - s.size) / step)))
    n = rng.randint(1, most)
    y = rng.uniform(0.6 * s.size, max(0.61 * s.size, page.height - n * step))
    x0, centred = rng.uniform(2, 0.3 * page.width), rng.random() < 0.25
    for _ in range(n):
        line = ""
        for _ in range(rng.randint(1, 2)):
            more = (line + " " + words.word(rng, split, 8)).strip()
            if s.run(more).width < page.width - x0 - 2:
                line = more
        if line:
            run = s.run(line, x0, y)
            if centred:
                run.x = (page.width - run.width) / 2
            page.runs.append(run)
        y += step
    if page.runs:
        page.ask("What does the page say?", " ".join(r.text for r in page.runs), *page.runs)
        page.ask("Read the first line.", page.runs[0].text, page.runs[0])
        page.ask("Read the last line.", page.runs[-1].text, page.runs[-1])
    return page


def window(rng, split, cols, rows):
    """Named buttons in a window, at free places of a loose grid."""
    s = Style(rng)
    page = Page("ground", cols, rows, paper=s.paper)
    wide, high = max(1, cols // rng.randint(6, 8)), max(1, rows // rng.randint(3, 5))
    w, h = page.width / wide, page.height / high
    seen = set()
    for r in range(high):
        for c in range(wide):
            run = s.run(words.word(rng, split, max(3, int(w / (0.6 * s.size)) - 1)))
            pad_x, pad_y = rng.uniform(3, 8), rng.uniform(2, 6)
            fits = run.width + 2 * pad_x <= w - 4 and run.size * 1.2 + 2 * pad_y <= h
            if rng.random() < 0.25 or run.text in seen or not fits:
                continue
            seen.add(run.text)
            run.x = c * w + pad_x + 2 + rng.uniform(0, w - 4 - run.width - 2 * pad_x)
            run.y = (r + 0.5) * h + rng.uniform(-0.5, 0.5) * (h - run.size * 1.2 - 2 * pad_y)
            half = run.size * 0.6 + pad_y
            frame = (run.x - pad_x, run.y - half, run.x + run.width + pad_x, run.y + half)
            page.shapes.append((rng.choice(["box", "round"]), frame, shade(rng, s.paper), grey(rng)))
            page.runs.append(run)
            where(page, rng, run, "button")
    return page


def chart(rng, split, cols, rows):
    """A bar chart with its values printed: bars lying (label, bar, value) or standing (value, bar, label)."""
    s = Style(rng, 18, 21)
    page = Page("chart", cols, rows, paper=s.paper)
    lying = rng.random() < 0.5 or cols < 12
    seen, fill = set(), tuple(rng.randint(60, 220) for _ in range(3))
    if lying:
        step = max(line_height(rng, s.size), page.height / rng.randint(4, 9))
        y, x0, longest = rng.uniform(0.6, 1.0) * s.size, rng.uniform(2, 8), 5
        base = x0 + 0.7 * s.size * longest + 4
        nice, most = rng.choice([9, 20, 60, 99, 300, 999]), page.width - base - 2.2 * s.size - 6
        while y + 0.5 * s.size < page.height:
            label = s.run(words.word(rng, split, longest), x0, y)
            val = s.run(str(rng.randint(1, nice)), y=y)
            length = max(2, most * int(val.text) / nice)
            val.x = base + length + 4
            if label.text not in seen and label.x + label.width < base and val.x + val.width < page.width:
                seen.add(label.text)
                page.runs += [label, val]
                page.shapes.append(("box", (base, y - 0.35 * s.size, base + length, y + 0.35 * s.size), fill, None))
                page.ask(f'What is the value of the bar "{label.text}"?', val.text, val)
            y += step
        return page
    n = max(2, min(6, int(page.width / (4.2 * s.size * 0.62))))
    w, foot = page.width / n, page.height - 1.3 * s.size
    nice, most = rng.choice([9, 20, 60, 99, 300, 999]), foot - 1.4 * s.size
    for i in range(n):
        label = s.run(words.word(rng, split, 4), y=page.height - 0.65 * s.size)
        val = s.run(str(rng.randint(1, nice)))
        height = max(2, most * int(val.text) / nice)
        if label.text in seen or label.width > w - 3 or val.width > w - 3:
            continue
        seen.add(label.text)
        label.x, val.x = i * w + (w - label.width) / 2, i * w + (w - val.width) / 2
        val.y = foot - height - 0.65 * s.size
        page.runs += [val, label]
        page.shapes.append(("box", (i * w + 0.2 * w, foot - height, i * w + 0.8 * w, foot), fill, None))
        page.ask(f'What is the value of the bar "{label.text}"?', val.text, val)
    return page


def grey(rng):
    return (rng.randint(100, 190),) * 3


def like(rng, ink):
    """Another colour of about the same brightness."""
    return tuple(max(0, min(255, c + rng.randint(-70, 70))) for c in ink) if sum(ink) < 380 else ink


def shade(rng, paper):
    return tuple(max(0, min(255, c + rng.randint(-18, 18))) for c in paper)


LAYOUTS = {"form": form, "place": place, "text": text, "ground": window, "chart": chart}
NAMES = {"form": "a form", "place": "words at places", "text": "a text", "ground": "a window", "chart": "a chart"}


def settle(page):
    """Moves lines of text off the edges between tokens."""
    for run in page.runs:
        run.y = inward(run.y)
    return page


def make_page(kind, rng, split, cols, rows):
    """A laid-out page of a kind, with at least one question."""
    for _ in range(50):
        page = LAYOUTS[kind](rng, split, cols, rows)
        if page.qa:
            return settle(page)
    raise ValueError(f"no {kind} page fits {cols} x {rows} tokens")


def chat(page, rng):
    """Small talk about the page: (kind, question, answer, box)."""
    box = (0, 0, page.width, page.height)
    options = [
        ("What kind of page is this?", "This is " + NAMES[page.kind] + "."),
        ("Hello", "Hello! You can ask about this picture."),
        ("What can you do?", "I can read forms, words, texts, buttons and charts."),
    ]
    return ("chat", *rng.choice(options), box)


def draw(page):
    """The page as an RGB picture."""
    image = Image.new("RGB", (page.width, page.height), page.paper)
    pen = ImageDraw.Draw(image)
    for kind, xy, fill, outline in page.shapes:
        if kind == "line":
            pen.line(xy, fill=outline)
        elif kind == "round":
            pen.rounded_rectangle(xy, 5, fill=fill, outline=outline)
        else:
            pen.rectangle(xy, fill=fill, outline=outline)
    for run in page.runs:
        f = font(run.font, run.size)
        for c, x, _ in run.characters():
            if c != " ":
                pen.text((x, run.y), c, run.color, f, anchor="lm")
    return image


def slots(page, depth=3):
    """Which characters have their middle in each token: for rows * cols tokens a list of (byte value, the one before it
    in its word or 0), left to right, up to `depth` of them. A colon that ends a run is taken for blank."""
    table = [[] for _ in range(page.rows * page.cols)]
    for run in page.runs:
        row, before, length = int(run.y // TOKEN), 0, len(run.text.removesuffix(":"))
        for c, x, w in list(run.characters())[:length]:
            col = int((x + w / 2) // TOKEN)
            if c != " " and 0 <= row < page.rows and 0 <= col < page.cols:
                cell = table[row * page.cols + col]
                if len(cell) < depth:
                    cell.append((ord(c), before))
            before = 0 if c == " " else ord(c)
    return table


def make_item(kind, seed, split):
    """One question about a fresh picture: (PIL.Image, question, answer, answer box in pixels)."""
    rng = random.Random(f"{kind}/{seed}/{split}")
    page = make_page(rng.choice(list(LAYOUTS)) if kind == "chat" else kind, rng, split, *rng.choice(SIZES))
    _, question, answer, box = chat(page, rng) if kind == "chat" else rng.choice([q for q in page.qa if q[0] == kind])
    return draw(page), question, answer, box


def is_right(kind, answer, given, box, size):
    """Whether an answer counts: the same text, or for grounding a point inside the named thing's box (pixels)."""
    if kind != "ground":
        return given.strip() == answer
    try:
        x, y = (int(v) for v in given.strip().split(","))
    except ValueError:
        return False
    px, py = (x + 0.5) * TOKEN, (y + 0.5) * TOKEN
    return box[0] <= px <= box[2] and box[1] <= py <= box[3]
