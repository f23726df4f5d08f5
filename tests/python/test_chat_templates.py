"""Our renderings against the files' own templates, rendered by Jinja2 as transformers does."""

from pathlib import Path
from typing import Any

import pytest

import foveal
from goldens import CASES, DATA, MARK
from test_variants import variant

sandbox = pytest.importorskip("jinja2.sandbox")
gguf = pytest.importorskip("gguf")

# files whose templates are the published ones, or shortened forms that agree on these conversations
FAMILIES = ["internvl3", "qwen2vl", "qwen25vl", "qwen3vl", "smolvlm", "text_llama", "text_qwen2", "text_qwen3"]
SINGLE_TURN = [[{"role": "user", "content": "What is 12 of 345?"}], [{"role": "user", "content": " a\n<|im_end|> b "}]]
TURNS = [
    [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three\n\n"},
    ],
    [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}],
]
WITH_SYSTEM = [[{"role": "system", "content": "Be brief."}, *turns] for turns in SINGLE_TURN + TURNS]
PICTURE = {"type": "image"}
PICTURES = [
    [{"role": "user", "content": [PICTURE, {"type": "text", "text": "What?"}]}],
    [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Compare "}, PICTURE, {"type": "text", "text": " and "}, PICTURE],
        }
    ],
]


def metadata(family: str, key: str) -> Any:
    return gguf.GGUFReader(DATA / family / "model-f16.gguf").fields[key].contents()


def rendered_by_jinja(family: str, messages: list[dict[str, Any]], as_parts: bool) -> str:
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(metadata(family, "tokenizer.chat_template"))
    if as_parts:
        messages = [
            {
                **m,
                "content": [{"type": "text", "text": m["content"]}] if isinstance(m["content"], str) else m["content"],
            }
            for m in messages
        ]
    text = template.render(
        messages=messages,
        add_generation_prompt=messages[-1]["role"] != "assistant",
        bos_token="",
        eos_token="</s>",
    )
    for picture in ("<|vision_start|><|image_pad|><|vision_end|>", "<image>"):
        text = text.replace(picture, MARK)
    return text


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_file(family: str) -> None:
    model = foveal.Model(DATA / family / "model-f16.gguf")
    for messages in SINGLE_TURN + TURNS + WITH_SYSTEM:
        assert model.apply_template(messages) == rendered_by_jinja(family, messages, family == "smolvlm")


@pytest.mark.parametrize("family", ["qwen2vl", "qwen25vl", "qwen3vl", "smolvlm"])
def test_pictures_stand_where_the_file_puts_them(family: str) -> None:
    model = foveal.Model(DATA / family / "model-f16.gguf")
    for messages in PICTURES:
        images = [DATA / family / "image0.png"] * sum(part is PICTURE for part in messages[0]["content"])
        assert model.apply_template(messages, images=images) == rendered_by_jinja(family, messages, True)


@pytest.mark.parametrize("family", ["gemma3", "text_gemma3_text"])
def test_gemma(family: str) -> None:
    """The fixture's template has no system turn; the published one folds the text into the user's."""
    model = foveal.Model(DATA / family / "model-f16.gguf")
    for messages in SINGLE_TURN + TURNS:
        assert model.apply_template(messages) == rendered_by_jinja(family, messages, False)


@pytest.mark.parametrize("family", ["llava15", "llavanext"])
def test_mistral(family: str) -> None:
    """The fixture's template glues answers to [/INST]; the published tokenizer puts a space between."""
    model = foveal.Model(DATA / family / "model-f16.gguf")
    for messages in SINGLE_TURN + TURNS:
        assert model.apply_template(messages) == rendered_by_jinja(family, messages, False).replace(
            "[/INST]T", "[/INST] T"
        )


def question(case: Any) -> str:
    """The user's text in a golden prompt whose pictures, if any, come first."""
    text = case.text["prompt"]
    for cut in ("<|im_start|>user\n", "<start_of_turn>user\n", "User:", "[INST] "):
        text = text.split(cut)[-1]
    for cut in ("<|im_end|>", "<end_of_turn>", "<end_of_utterance>", " [/INST]"):
        text = text.split(cut)[0]
    return text.replace(MARK, "").strip()


@pytest.mark.parametrize("case", [c for c in CASES if c.family != "llava15" and c.name != "two"], ids=str)
def test_equals_the_goldens(case: Any) -> None:
    """The prompts that the original implementations were asked."""
    model = foveal.Model(DATA / case.family / "model-f16.gguf")
    if case.family == "text_mistral":
        with pytest.raises(foveal.UnsupportedError, match="--chat-template"):
            model.apply_template([{"role": "user", "content": "a"}])
        return
    messages: list[dict[str, Any]] = [{"role": "user", "content": question(case)}]
    if case.images:
        messages[0]["content"] = [*[PICTURE] * len(case.images), {"type": "text", "text": question(case)}]
    if "<|im_start|>system" in case.text["prompt"]:
        messages.insert(0, {"role": "system", "content": "You are a helpful assistant."})
    if case.family == "internvl3" and case.images:
        model = foveal.Model(DATA / case.family / "model-f16.gguf", mmproj=DATA / case.family / "mmproj-f16.gguf")
    assert model.apply_template(messages, images=case.images) == case.text["prompt"]


def chatml(system: str, begun: str = "") -> str:
    return (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\\n" + system
        + "<|im_end|>\\n' }}{% endif %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n" + begun + "' }}{% endif %}"
    )  # fmt: skip


def with_template(template: str, to: Path) -> Path:
    return variant(DATA / "text_qwen2" / "model-f16.gguf", to, {"tokenizer.chat_template": template})


@pytest.mark.parametrize(
    ("template", "left_out"),
    [
        (chatml("You are a helpful assistant."), ""),
        (chatml("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."), ""),
        (chatml("You are Dolphin."), "You are Dolphin."),
        (chatml("You are a helpful assistant made by X."), "You are a helpful assistant made by X."),
        (chatml("You are a helpful assistant.", "<think>\\n"), "<think>"),
    ],
)
def test_what_a_familys_rendering_leaves_out_is_said(template: str, left_out: str, tmp_path: Path) -> None:
    model = foveal.Model(with_template(template, tmp_path / "a.gguf"), threads=1)
    said = [w for w in model.info["warnings"] if "chat template" in w]
    assert left_out in "".join(said) and bool(said) == bool(left_out)
    ours = model.apply_template("Hi?")
    theirs = foveal.Model(tmp_path / "a.gguf", threads=1, chat_template="jinja").apply_template("Hi?")
    assert (ours == theirs) == (not left_out)
    assert theirs.endswith(
        "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n" + "<think>\n" * ("think" in left_out)
    )


def test_nearly_known_templates_are_not_taken_for_known(tmp_path: Path) -> None:
    for template in (
        "<|im_start|>user<|im_sep|>{{ messages[0].content }}<|im_end|>",
        "### USER: {{ x }}\n### ASSISTANT:",
    ):
        model = foveal.Model(with_template(template, tmp_path / "a.gguf"), threads=1)
        with pytest.raises(foveal.UnsupportedError, match="no known family"):
            model.apply_template("Hi?")


def test_an_empty_template_is_none(tmp_path: Path) -> None:
    folder = DATA / "qwen2vl"
    bare = variant(folder / "model-f16.gguf", tmp_path / "a.gguf", {"tokenizer.chat_template": ""})
    mmproj = folder / "mmproj-f16.gguf"
    named = foveal.Model(bare, mmproj=mmproj, threads=1, chat_template="qwen-vl")
    assert foveal.Model(bare, mmproj=mmproj, threads=1).apply_template("Hi?") == named.apply_template("Hi?")


def test_llavas_published_template_is_vicunas(tmp_path: Path) -> None:
    template = (
        "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}"
        "{% endif %}"
        "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
    folder = DATA / "llava15"
    file = variant(folder / "model-f16.gguf", tmp_path / "a.gguf", {"tokenizer.chat_template": template})
    named = foveal.Model(file, threads=1, chat_template="vicuna")
    assert foveal.Model(file, threads=1).apply_template("Hi?") == named.apply_template("Hi?")
