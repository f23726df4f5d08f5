"""The model's tokenizer: one token a byte, whole-word tokens for the questions' own words, ChatML control tokens.
Page contents are spelt byte by byte, so unseen words are no harder than known ones. Byte b has the id b."""

import re

WORDS = [
    "user",
    "assistant",
    "system",
    "What",
    "Where",
    "Which",
    "Read",
    "Find",
    "Give",
    "Hello",
    " is",
    " the",
    " value",
    " of",
    " word",
    " at",
    " top",
    " bottom",
    " left",
    " right",
    " center",
    " page",
    " say",
    " does",
    " button",
    " point",
    " chart",
    " kind",
    " this",
    " text",
    " picture",
    " in",
    " many",
    " read",
    " for",
    " bar",
    " form",
    " window",
    " words",
    " line",
    " first",
    " last",
    " above",
    " below",
    " beside",
    " to",
    " and",
    " with",
    " key",
    " label",
    " You",
    " you",
    " can",
    " do",
    " are",
    " values",
    " buttons",
    " places",
    " I",
    " questions",
    " about",
    " pictures",
]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
MERGED = "ĠĠ"  # the one merge: readers want a merge table, and two spaces never stand in a page
N_VOCAB = 352  # padded to a multiple of 32
WORD0 = 257
CONTROL0 = WORD0 + len(WORDS)
ENDOFTEXT, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD = range(CONTROL0, CONTROL0 + len(CONTROL))
_IDS = {w: WORD0 + i for i, w in enumerate(WORDS)} | {c: CONTROL0 + i for i, c in enumerate(CONTROL)}
_SPLIT = re.compile("(" + "|".join(re.escape(w) for w in sorted(_IDS, key=lambda w: (-len(w), _IDS[w]))) + ")")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def encode(text):
    """Token ids of a text; control tokens are recognised."""
    ids = []
    for piece in _SPLIT.split(text):
        if piece in _IDS:
            ids.append(_IDS[piece])
        else:
            raw = list(piece.encode())
            while raw:
                two = raw[:2] == [32, 32]
                ids.append(256 if two else raw[0])
                raw = raw[1 + two :]
    return ids


def decode(ids):
    """Text of token ids, control tokens left out."""
    out = b""
    for i in ids:
        if i < 256:
            out += bytes([i])
        elif i == 256:
            out += b"  "
        elif i < CONTROL0:
            out += WORDS[i - WORD0].encode()
    return out.decode(errors="replace")


def byte_alphabet():
    """The printable character that byte-level BPE writes for each byte."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(b) if b in keep else chr(next(rest)) for b in range(256)]


def gguf_tables():
    """(tokens, types, merges) as a GGUF file holds them: types 1 normal, 3 control, 4 user-defined, 5 unused."""
    tokens, types = byte_alphabet() + [MERGED], [1] * 257
    tokens, types = tokens + WORDS + CONTROL, types + [4] * len(WORDS) + [3] * len(CONTROL)
    pad = N_VOCAB - len(tokens)
    return tokens + [f"[PAD{i}]" for i in range(pad)], types + [5] * pad, ["Ġ Ġ"]
