"""The demo model's pages: repeatable, answerable, test words apart from training words. Needs Pillow, not torch."""

import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("PIL")
sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "train"))
import pages
import tokenizer
import words


@pytest.mark.parametrize("kind", pages.KINDS)
def test_items_repeat_and_boxes_lie_in_the_picture(kind):
    for seed in range(5):
        image, question, answer, box = pages.make_item(kind, seed, "test")
        again = pages.make_item(kind, seed, "test")
        assert (again[0].tobytes(), *again[1:]) == (image.tobytes(), question, answer, box)
        assert image.width % pages.TOKEN == 0 and image.height % pages.TOKEN == 0
        assert 400 <= image.width * image.height // pages.TOKEN**2 <= 1600
        assert box[0] < box[2] <= image.width + 1 and box[1] < box[3] <= image.height + pages.TOKEN
        assert pages.is_right(kind, answer, answer, box, image.size)
        assert not pages.is_right(kind, answer, answer + "x", box, image.size)


def test_splits_share_no_word_and_no_picture():
    rng = random.Random(1)
    train = {words.bare_word(rng, "train", 9) for _ in range(3000)}
    test = {words.bare_word(rng, "test", 9) for _ in range(3000)}
    assert not train & test and min(len(train), len(test)) > 300
    assert pages.make_item("form", 0, "train")[0].tobytes() != pages.make_item("form", 0, "test")[0].tobytes()


def test_a_forms_value_is_beside_its_key():
    page = pages.make_page("form", random.Random(4), "test", 20, 20)
    for _, question, answer, box in page.qa:
        key = next(r for r in page.runs if r.text.removesuffix(":") == question.split('"')[1])
        value = next(r for r in page.runs if r.box == box)
        assert value.text == answer and value.y == key.y and value.x > key.x + key.width


def test_slots_spell_the_page():
    page = pages.make_page("place", random.Random(2), "train", 20, 20)
    spelt = sorted(chr(c) for cell in pages.slots(page, 9) for c, _ in cell)
    assert spelt == sorted("".join(r.text for r in page.runs))


def test_tokenizer_returns_any_text():
    for text in ['What is the value of "Total"?', "naïve €5", "a  b", "<|im_end|>"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("<|im_end|>", "")
    tokens, types, _ = tokenizer.gguf_tables()
    assert len(tokens) == len(types) == len(set(tokens)) == tokenizer.N_VOCAB
    assert max(tokenizer.encode("<|image_pad|>")) < tokenizer.N_VOCAB
