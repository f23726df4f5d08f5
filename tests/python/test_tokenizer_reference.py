"""Token ids against the reference implementations, `tokenizers` and `sentencepiece`.

Vocabularies are trained here. The BPE one may merge across words, so that any difference in splitting changes ids.
"""

import io
import json
import random
import string
import unicodedata

import pytest

import foveal

tokenizers = pytest.importorskip("tokenizers")
spm = pytest.importorskip("sentencepiece")
gguf = pytest.importorskip("gguf")

N_STRINGS = 5000

# The published patterns (tokenizer.json of each family).
GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN2 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN35 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL
)
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTION}?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL
)
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    r""" ?[\p{P}\p{S}]+[\r\n]*|""" + TAIL
)
DEFAULT_MARKS = r"[\p{P}\$\+<=>\^~\|]+"

# name: stages of the split; flags
PRE_TOKENIZERS = {
    "default": ([DEFAULT_MARKS, GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], {}),
    "gpt-2": ([GPT2], {}),
    "smollm": ([r"\p{N}", GPT2], {}),
    "llama-bpe": ([LLAMA3], {"ignore_merges": True}),
    "qwen2": ([QWEN2], {"nfc": True}),
    "qwen35": ([QWEN35], {"nfc": True}),
    "tekken": ([TEKKEN], {"ignore_merges": True}),
    "gpt-4o": ([GPT4O], {}),
    "deepseek-v3": ([r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3], {}),
}
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<tool_call>", "\n\n\n\n"]

FRAGMENTS = [
    "the ",
    "Hello",
    " world",
    "don't",
    "WE'LL",
    "they'RE",
    "it'ſ",
    "I'm",
    "'d",
    "'",
    "''s",
    "you've ",
    "HTTPServer",
    "camelCaseName",
    "snake_case_name",
    "XMLHttpRequest",
    "ÀÉÎ",
    "straße",
    "ÇA",
    "ǅungla",
    "ʰ",
    "ªº",
    "for (int i = 0; i < 10; ++i) {\n",
    "\tif x:\n\t\treturn y\n",
    "def f(a, *b):\n    pass\n",
    "#include <vector>\r\n",
    "a/b/c//",
    "...",
    "!?",
    "->",
    "::",
    "\\n",
    "{}[]();",
    "/* x */\n/\n",
    "$x^2 + y_1 = ~z|w`",
    '<tag attr="1"/>',
    "0",
    "7",
    "42",
    "1234567",
    "3.14159",
    "1,000,000",
    "٣٤٥",
    "Ⅻ",
    "½",
    "²³",
    "①②",
    "१२३",
    " 123",
    "你好",
    "世界，",
    "中文字符测试",
    "日本語テスト",
    "ひらがな",
    "カタカナー",
    "한국어",
    "각",
    "。",
    "「」",
    "Привет",
    "мир",
    "ПРИВЕТ",
    "Ελληνικά",
    "עברית",
    "שָׁלוֹם",
    "العربية",
    "हिन्दी",
    "ภาษาไทย",
    "ქართული",
    "Ⴀⴀ",
    "😀",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "👍🏽",
    "🇨🇭",
    "❤️",
    "☃",
    "→",
    "∑",
    "€",
    "№",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    " \n ",
    "\n  \n",
    "\u00a0",
    "\u3000",
    "\u2003",
    "\u200b",
    "\u2028",
    "\x0b",
    "e\u0301",
    "o\u0308\u0323",
    "\u0301",
    "a\u0328\u0301",
    "\u1100\u1161\u11a8",
    "ﬁ",
    "Å",
    "\u212b",
    "\u0958",
    "Ω",
    "q\u0307\u0323",
    "\x00",
    "\x7f",
    "\u0085",
    "\ufeff",
    "\ufffd",
    "<|im_start|",
    "im_end|>",
    "<tool",
    "_call>",
    "_",
    "A",
    "b",
    "Z9",
]


def random_char(rng: random.Random) -> str:
    top = rng.choice([0x80, 0x250, 0x3000, 0x10000, 0x20000, 0x110000])
    while True:
        code_point = rng.randrange(top)
        if not 0xD800 <= code_point < 0xE000:
            return chr(code_point)


def mixed_strings(n: int, seed: int) -> list[str]:
    """Strings of fragments, random characters and runs, from all over."""
    rng = random.Random(seed)
    out = ["", " ", "\n", "a"]
    while len(out) < n:
        parts = []
        for _ in range(rng.randrange(1, 14)):
            kind = rng.random()
            if kind < 0.7:
                parts.append(rng.choice(FRAGMENTS))
            elif kind < 0.8:
                parts.append(rng.choice(" \n\t1aA中!\u0301") * rng.randrange(1, 12))
            elif kind < 0.9:
                parts.append("".join(rng.choices(string.printable, k=rng.randrange(1, 9))))
            else:
                parts.append("".join(random_char(rng) for _ in range(rng.randrange(1, 4))))
        out.append("".join(parts))
    return out


def training_text() -> list[str]:
    """Words of all scripts in sentences, with pairs that recur so that merges form across words."""
    rng = random.Random(7)
    common = [rng.choice(FRAGMENTS) + rng.choice(FRAGMENTS) for _ in range(300)]
    return ["".join(rng.choices(FRAGMENTS + common, k=12)) for _ in range(3000)] + FRAGMENTS * 30


@pytest.fixture(scope="module")
def bpe_vocabulary():
    """(tokens, merges) of a byte-level BPE whose merges cross words and lines."""
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = byte_level
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=6000, initial_alphabet=byte_level.alphabet(), show_progress=False, max_token_length=16
    )
    trained.train_from_iterator(training_text(), trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]


def write_bpe(path, tokens, merges, pre):
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + CONTROL + USER_DEFINED)
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    kinds += [gguf.TokenType.CONTROL] * len(CONTROL) + [gguf.TokenType.USER_DEFINED] * len(USER_DEFINED)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(m) for m in merges])
    writer.add_eos_token_id(len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def reference_bpe(tokens, merges, stages, flags):
    reference = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={t: i for i, t in enumerate(tokens)}, merges=merges, ignore_merges=flags.get("ignore_merges", False)
        )
    )
    splits = [tokenizers.pre_tokenizers.Split(tokenizers.Regex(s), "isolated") for s in stages]
    splits.append(tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    reference.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(splits)
    if flags.get("nfc"):
        reference.normalizer = tokenizers.normalizers.NFC()
    reference.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t in CONTROL])
    reference.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in USER_DEFINED])
    return reference


def check_equal(ours, reference_ids, text):
    got = ours.encode(text, special=True)
    assert got == reference_ids, f"{text!r}: {got} != {reference_ids}"


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_bpe_equals_tokenizers(pre, bpe_vocabulary, tmp_path):
    tokens, merges = bpe_vocabulary
    stages, flags = PRE_TOKENIZERS[pre]
    path = tmp_path / "vocab.gguf"
    write_bpe(path, tokens, merges, pre)
    ours, reference = foveal.Tokenizer(path), reference_bpe(tokens, merges, stages, flags)
    rng = random.Random(1)
    for text in mixed_strings(N_STRINGS, seed=len(pre)):
        if rng.random() < 0.1:
            cut = rng.randrange(len(text) + 1)
            text = text[:cut] + rng.choice(CONTROL + USER_DEFINED) + text[cut:]
        expected = reference.encode(text, add_special_tokens=False).ids
        check_equal(ours, expected, text)
        if not flags.get("nfc"):
            assert ours.decode(expected) == text


@pytest.mark.parametrize("pre", ["gpt-2", "qwen2"])
def test_user_text_gives_no_control_ids(pre, bpe_vocabulary, tmp_path):
    tokens, merges = bpe_vocabulary
    path = tmp_path / "vocab.gguf"
    write_bpe(path, tokens, merges, pre)
    ours = foveal.Tokenizer(path)
    control = set(range(len(tokens), len(tokens) + len(CONTROL)))
    rng = random.Random(3)
    for text in mixed_strings(500, seed=11):
        text += rng.choice(CONTROL) + text
        ids = ours.encode(text, special=False)
        assert not control & set(ids)
        assert unicodedata.normalize("NFC", ours.decode(ids)) == unicodedata.normalize("NFC", text)
        assert control & set(ours.encode(text, special=True))


def test_every_code_point_is_normalised_and_classed_as_the_reference(bpe_vocabulary, tmp_path):
    """Each code point between two letters, after a mark, and in pairs: classes and NFC all over Unicode."""
    tokens, merges = bpe_vocabulary
    path = tmp_path / "vocab.gguf"
    for pre in ("qwen2", "tekken"):
        stages, flags = PRE_TOKENIZERS[pre]
        write_bpe(path, tokens, merges, pre)
        ours, reference = foveal.Tokenizer(path), reference_bpe(tokens, merges, stages, flags)
        rng = random.Random(5)
        assigned = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")]
        marks = [c for c in assigned if unicodedata.combining(chr(c))]
        for begin in range(0, len(assigned), 64):
            chars = [chr(c) for c in assigned[begin : begin + 64]]
            text = "".join(
                rng.choice(["a", " ", "A", "!", ""]) + c + chr(rng.choice(marks)) * rng.randrange(2) for c in chars
            )
            check_equal(ours, reference.encode(text, add_special_tokens=False).ids, text)


@pytest.mark.parametrize("prefix", [True, False])
def test_spm_equals_sentencepiece(prefix, tmp_path):
    model = io.BytesIO()
    runs = ["\n" * n for n in range(2, 6)] + ["▁" * n for n in range(2, 6)]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in training_text() for line in text.replace("\x00", "").split("\n")),
        model_writer=model, model_type="bpe", vocab_size=3500, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=prefix, user_defined_symbols=[] if prefix else runs,
        character_coverage=0.98, split_by_whitespace=True, max_sentence_length=100000, minloglevel=2,
        allow_whitespace_only_pieces=True, hard_vocab_limit=False,
    )  # fmt: skip
    reference = spm.SentencePieceProcessor(model_proto=model.getvalue())
    path = tmp_path / "vocab.gguf"
    size = reference.get_piece_size()
    kinds = []
    for i in range(size):
        if reference.is_unknown(i):
            kinds.append(gguf.TokenType.UNKNOWN)
        elif reference.is_control(i):
            kinds.append(gguf.TokenType.CONTROL)
        elif reference.is_byte(i):
            kinds.append(gguf.TokenType.BYTE)
        else:
            is_run = not prefix and reference.id_to_piece(i) in runs
            kinds.append(gguf.TokenType.USER_DEFINED if is_run else gguf.TokenType.NORMAL)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([reference.id_to_piece(i) for i in range(size)])
    writer.add_token_scores([reference.get_score(i) for i in range(size)])
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    ours = foveal.Tokenizer(path)
    for text in mixed_strings(N_STRINGS, seed=21):
        expected = reference.encode(text)
        check_equal(ours, expected, text)
        assert ours.decode(expected) == text
