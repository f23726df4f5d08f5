"""Every family against the original implementation: pixels, embeddings, K, V, logits, greedy tokens (F16 files)."""

import numpy as np
import pytest

from foveal.images import to_pixels
from goldens import CASES, PICTURES, Case, distance, exact, greedy, interleaved, load, planar

WITHIN = 1e-3  # norm of the difference over the norm


@pytest.mark.parametrize("case", PICTURES, ids=str)
def test_pixels(case: Case) -> None:
    model = load(case.family)
    found = [tile for path in case.images for tile in model._native.preprocess(to_pixels(path))]
    expected = planar(case.arrays)
    assert [t.shape for t in found] == [t.shape for t in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1 / 255


@pytest.mark.parametrize("case", PICTURES, ids=str)
def test_image_embeddings(case: Case) -> None:
    model = load(case.family)
    arrays = case.arrays
    expected = np.concatenate(
        [arrays[f"image_embeds_{j}"] for j in range(len(arrays)) if f"image_embeds_{j}" in arrays]
    )
    found = np.concatenate([model._native.encode_image(to_pixels(path)) for path in case.images])
    assert found.shape == expected.shape
    assert distance(found, expected) <= WITHIN
    public = np.concatenate([model.encode_image(path) for path in case.images])
    assert np.array_equal(public, found[:, : model.info["n_embd"]])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tokens(case: Case) -> None:
    session = load(case.family).session(exact())
    session.prefill(case.parts())
    expected = np.array(case.arrays["input_ids"])
    found = np.array(session.tokens)
    assert found.shape == expected.shape
    assert np.array_equal(found[found >= 0], expected[found >= 0])
    assert len(set(expected[found < 0].tolist())) <= 1  # the family's picture token, where we have rows
    assert session.pos == case.text.get("next_pos", len(expected))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_keys_values(case: Case) -> None:
    model = load(case.family)
    session = model.session(exact())
    session.prefill(case.parts())
    arrays = case.arrays
    for il in range(model.info["n_layer"]):
        k, v = session.kv_arrays(il)
        expected_k, expected_v = arrays[f"k_L{il}"], arrays[f"v_L{il}"]
        if model.info["arch"] == "llama":
            expected_k = interleaved(expected_k)
        for ih, rows in enumerate(session.kept(il)):
            assert distance(k[ih], expected_k[rows, ih]) <= WITHIN, (il, ih)
            assert distance(v[ih], expected_v[rows, ih]) <= WITHIN, (il, ih)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_and_greedy_tokens(case: Case) -> None:
    session = load(case.family).session(exact())
    session.prefill(case.parts())
    arrays = case.arrays
    assert distance(session.logits, arrays["logits_last"]) <= WITHIN
    tokens, logits = greedy(session, 16)
    assert tokens == arrays["greedy_ids"].tolist()
    for found, expected in zip(logits, arrays["greedy_logits"], strict=True):
        assert distance(found, expected) <= WITHIN
