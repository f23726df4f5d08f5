"""Conversations as clients write them, and the sandboxed template: what users write never becomes a control token."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foveal import ArgumentError, UnsupportedError, jinja
from foveal.messages import parse
from goldens import load

PICTURE = np.zeros((8, 8, 3), np.uint8)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LISTS_ONLY = (
    "{% for m in messages %}{{m.role}}:{% for part in m.content %}{% if part.type == 'text' %}{{ part.text | trim }}"
    "{% endif %}{% endfor %}\n{% endfor %}"
)


def test_contents() -> None:
    data = io.BytesIO()
    Image.fromarray(PICTURE).save(data, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    messages, pixels = parse(
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "image": PICTURE}]},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}, "c"]},
            {"role": "assistant", "content": "d"},
            {"role": "user", "content": "e", "images": [PICTURE, PICTURE]},
        ]
    )
    assert [parts for _, parts in messages] == [[b"be brief"], [b"a", 0], [b"b"], [1, b"c"], [b"d"], [2, 3, b"e"]]
    assert len(pixels) == 4


def test_pictures_as_transformers_writes_them(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    uri = "data:image/png;base64," + base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    parts = [{"type": "image", "path": str(tmp_path / "a.png")}, {"type": "image", "url": uri}]
    messages, pixels = parse([{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}])
    assert messages == [("user", [0, 1, b"what?"])]
    assert all((p == PICTURE).all() for p in pixels)
    assert len(parse([{"role": "user", "content": [parts[0] | {"min_pixels": 100}, "what?"]}])[1]) == 1
    for wrong in ({"url": "http://a/b.png"}, {"path": 3}, {"path": "a", "url": uri}):
        with pytest.raises(ArgumentError, match=r"content\[0\]"):
            parse([{"role": "user", "content": [{"type": "image"} | wrong]}], [PICTURE])


def test_a_place_for_a_picture_is_enough_to_see_the_prompt() -> None:
    model = load("qwen2vl")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hi"}, {"type": "image"}]}]
    shown = model.apply_template(messages)
    assert shown.count("<__media__>") == 2
    assert shown == model.apply_template(messages, [PICTURE, PICTURE])
    with pytest.raises(ArgumentError, match="images has only 1"):
        model.apply_template(messages, [PICTURE])
    with pytest.raises(ArgumentError, match="images has only 0"):
        model.session().chat(messages)


def test_empty_keys_of_a_clients_dump_are_no_error() -> None:
    dumped = {"role": "assistant", "content": "b", "refusal": None, "annotations": [], "tool_calls": None}
    assert parse([{"role": "user", "content": "a"}, dumped])[0][1] == ("assistant", [b"b"])
    with pytest.raises(ArgumentError, match="tool_calls"):
        parse([dumped | {"tool_calls": [{"id": "1"}]}])


def test_images_argument() -> None:
    assert parse("what?", [PICTURE])[0] == [("user", [0, b"what?"])]
    content = ["compare ", {"type": "image"}, " and ", {"type": "image"}]
    messages = [{"role": "user", "content": content}]
    assert parse(messages, [PICTURE, PICTURE])[0] == [("user", [b"compare ", 0, b" and ", 1])]
    for images in ([], [PICTURE], [PICTURE] * 3):
        with pytest.raises(ArgumentError, match="images"):
            parse(messages, images)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "at least one"),
        (None, "messages"),
        ([{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}], r"messages\[1\].*robot"),
        ([{"role": "user"}], r"messages\[0\].*content"),
        ([{"role": "user", "content": 5}], r"messages\[0\].*content"),
        ([{"role": "user", "content": [5]}], r"messages\[0\].content\[0\]"),
        ([{"role": "user", "content": [{"type": "video"}]}], "video"),
        ([{"role": "user", "content": [{"type": "text"}]}], "text"),
        ([{"role": "user", "content": "a", "image": PICTURE}], "'image'"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "http://a/b.png"}]}], "not fetched"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
            "data: URI",
        ),
        (["a"], r"messages\[0\]"),
    ],
)
def test_bad_messages(messages: object, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        parse(messages)
    assert parse("a")[0]


def joined(parts: list[jinja.PromptPart]) -> bytes:
    return b"".join(b"<image>" if isinstance(p, int) else p[0] for p in parts)


def test_template_is_rendered() -> None:
    messages, _ = parse([{"role": "user", "content": "hi", "images": [PICTURE]}])
    parts = jinja.render(CHATML, messages, "<s>", "</s>")
    assert joined(parts) == b"<|im_start|>user\n<image>hi<|im_end|>\n<|im_start|>assistant\n"
    assert [p for p in parts if isinstance(p, tuple) and not p[1]] == [(b"hi", False)]
    parts = jinja.render(LISTS_ONLY, parse([{"role": "user", "content": "  hi \n"}])[0], "", "")
    assert joined(parts) == b"user:hi"


LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{% generation %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    "{% if tools is not none or documents is not none %}TOOLS{% endif %}{{ '<b>' | tojson }}"
)


def test_blanks_beside_contents_are_the_templates_own() -> None:
    turns = [("user", "Hi?"), ("assistant", " yes "), ("user", "\u3000\nMore\u00a0")]
    parts = jinja.render(LLAMA2, parse([{"role": role, "content": text} for role, text in turns])[0], "<s>", "</s>")
    assert joined(parts) == b'<s>[INST] Hi? [/INST] yes </s>[INST] More [/INST]"<b>"'
    assert [p[0] for p in parts if isinstance(p, tuple) and not p[1]] == [b"Hi?", b"yes", b"More"]


@pytest.mark.parametrize(
    ("place", "expected"),
    [("<image>\n", "<image>\n"), ("<|vision_start|><|image_pad|><|vision_end|>", "<image>"), ("[PIC]", ""),
     ("<start_of_image>", "\n\n<image>\n\n")],
)  # fmt: skip
def test_pictures_stand_where_the_template_puts_them(place: str, expected: str) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}:{% for c in m.content if c.type == 'image' %}" + place + "{% endfor %}"
        "{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %};{% endfor %}"
    )
    content = [{"type": "text", "text": "a <image> b"}, {"type": "image"}, {"type": "text", "text": "c"}]
    messages = parse([{"role": "user", "content": content}], [PICTURE])[0]
    parts = jinja.render(template, messages, "", "")
    shown = joined(parts).decode()
    assert shown == (f"user:{expected}a <image> bc;" if expected else "user:a <image> b<image>c;")
    assert sum(isinstance(p, int) for p in parts) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text() | st.sampled_from(["<|im_start|>", "<|image_pad|>", "</s>", "{{ 7 * 7 }}"]), min_size=1))
def test_user_text_is_never_trusted(words: list[str]) -> None:
    text = "".join(words).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    parts = jinja.render(CHATML, parse([{"role": "user", "content": text}])[0], "<s>", "</s>")
    trusted = b"".join(p[0] for p in parts if isinstance(p, tuple) and p[1])
    assert trusted == b"<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    assert joined(parts) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n".encode()


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{% for %}",
        "{{ raise_exception('no') }}",
        "nothing of the messages",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ messages[0]['content'] | upper }}",
        "x" * (2 << 20),
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
    ],
    ids=lambda t: t[:30],
)
def test_bad_templates(template: str) -> None:
    with pytest.raises((UnsupportedError, ArgumentError), match="template"):
        jinja.render(template, parse("hi")[0], "", "")
