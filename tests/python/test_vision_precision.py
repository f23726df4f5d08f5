"""vision_precision "bf16" and "bf16x3": what they cost the embeddings, and the refusal where the CPU lacks AMX."""

import os
import subprocess
import sys

import numpy as np
import pytest

import foveal
from foveal.images import to_pixels
from goldens import DATA, PICTURES, Case, distance, load

WITHIN_SPLIT = 2e-5
WITHIN = 1e-2  # norm of the difference over the norm; f32 is held to 1e-3 and is near 1e-6


def encoder(family: str, precision: str) -> foveal.Model:
    try:
        return load(family, vision_precision=precision)
    except foveal.UnsupportedError as error:
        assert "AMX" in str(error)
        pytest.skip("this CPU has no bfloat16 products")


@pytest.mark.parametrize("case", PICTURES, ids=str)
def test_embeddings(case: Case) -> None:
    exact = load(case.family, vision_precision="f32")
    fast, split = encoder(case.family, "bf16"), encoder(case.family, "bf16x3")
    for path in case.images:
        expected = exact._native.encode_image(to_pixels(path))
        assert 1e-4 < distance(fast._native.encode_image(to_pixels(path)), expected) <= WITHIN
        assert distance(split._native.encode_image(to_pixels(path)), expected) <= WITHIN_SPLIT


def test_the_default_is_bf16x3_where_there_is_amx() -> None:
    pixels, split = to_pixels(PICTURES[0].images[0]), encoder(PICTURES[0].family, "bf16x3")
    assert np.array_equal(load(PICTURES[0].family)._native.encode_image(pixels), split._native.encode_image(pixels))


def test_other_machines_refuse() -> None:
    folder = DATA / "qwen2vl"
    code = (
        f"import foveal\ntry:\n  foveal.Model({str(folder / 'model-f16.gguf')!r}, {str(folder / 'mmproj-f16.gguf')!r},"
        " vision_precision='bf16')\nexcept foveal.UnsupportedError as e:\n  print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FOVEAL_FORCE_ISA": "scalar"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "AMX" in done.stdout and "scalar" in done.stdout
    assert np.isfinite(load("qwen2vl").encode_image(PICTURES[0].images[0])).all()
