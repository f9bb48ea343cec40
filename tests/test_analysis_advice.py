"""Every kind of advice: one tensor that it is given of, and one much like it that it isn't given of."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from conftest import safetensors
from mc.analysis.examine import analyze

N = (100, 100)
Tensors = dict[str, tuple[str, np.ndarray]]


def tensors() -> Tensors:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=N).astype(np.float32)
    half = noise.copy()
    half[:40] = half[:40].astype(np.float16)
    cast = noise.astype(ml_dtypes.bfloat16).astype(np.float32)
    spike = noise.copy()
    spike[3, 3] = 60
    spikes = np.where(rng.random(N) < 0.003, 1, 1e-5) * rng.choice([-1, 1], N) * rng.uniform(0.5, 1, N)
    few = rng.choice([-1.0, 0.5, 2.0], N).astype(np.float32)
    any_bits = rng.integers(0, 1 << 63, N).view("f8")
    floats: Tensors = {
        "noise": ("F32", noise), "again": ("F32", noise), "empty": ("F32", noise[:0]), "one": ("F32", noise[0, :1]),
        "small": ("F32", noise[0]), "zero": ("F32", np.zeros(N, "f4")), "half": ("F32", half), "cast": ("F32", cast),
        "nan": ("F32", np.where(noise > 3, np.nan, noise)), "pruned": ("F32", noise * (np.abs(noise) > 1)),
        "scaled": ("F32", noise * np.exp2(rng.normal(0, 2, (100, 1))).astype("f4")), "spike": ("F32", spike),
        "heavy": ("F32", (np.sign(noise) * np.abs(noise) ** 2.2)), "few": ("F32", few),
        "low": ("F32", (rng.normal(size=(100, 3)) @ rng.normal(size=(3, 100))).astype("f4")),
        "spikes": ("F32", spikes.astype("f4")), "any bits": ("F64", any_bits),
        "minute": ("F64", rng.normal(size=N) * 1e-300), "complex": ("C64", cast.view("c8")),
    }  # fmt: skip
    whole: Tensors = {
        "bytes": ("U8", rng.integers(0, 256, N, np.uint8)), "steps": ("I8", rng.normal(0, 3, N).astype(np.int8)),
    }  # fmt: skip
    return floats | whole


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The advice of every tensor."""
    path = tmp_path_factory.mktemp("advice") / "m.safetensors"
    path.write_bytes(safetensors(tensors()))
    return {tensor.name: " ".join(tensor.advice) for tensor in analyze(path).tensors}


@pytest.mark.parametrize(
    ("words", "given", "not_given"),
    [
        ("Leave alone: it is empty", "empty", "one"),
        ("Store once: it has the same bytes as 'noise'", "again", "noise"),
        ("Leave alone: it is a single number", "one", "small"),
        ("Store one number: all 10000 are 0", "zero", "few"),
        ("Look at it first: it holds", "nan", "noise"),
        ("Is F32 that fits BF16", "cast", "half"),
        ("Is partly F16: 40% of it, 40 rows", "half", "noise"),
        ("fits BF16", "cast", "complex"),  # there is no narrower complex dtype
        ("Leave alone: it has only 100 numbers", "small", "noise"),
        ("Is sparse already: 68% are zero", "pruned", "noise"),
        ("Code with row contexts", "scaled", "noise"),
        ("Quantize at about 5.2 bits for 30 dB", "noise", "few"),
        ("so use escapes", "spike", "noise"),
        ("its tails are heavy", "heavy", "noise"),
        ("Don't quantize further", "few", "noise"),
        ("Factor at rank 3", "low", "noise"),
        ("Prune to", "spikes", "noise"),
        ("of its 8 bits are used", "bytes", "steps"),
        ("Code at its entropy", "steps", "bytes"),
        ("Store as is: the best of three levels", "any bits", "noise"),
        ("nothing was found", "minute", "noise"),
    ],
)
def test_each_kind_of_advice(said: dict[str, str], words: str, given: str, not_given: str) -> None:
    assert words in said[given], said[given]
    assert words not in said[not_given], said[not_given]
