"""What pruning with statistics is worth: errors on inputs of MiniLM's 36 encoder matrices, half of each row gone.

The statistics are recorded on one text and the errors measured on others: sentences from the rest of what `recorded()`
draws from (same kind of text, none of it within a recorded paragraph), and everyday sentences written for this project
(another kind). The error is tr((W - V) G (W - V)^T) over tr(W G W^T), both summed over the matrices, G being the Gram
matrix of the inputs that the original's layers take on that text.

    python bench/pruned.py [--stats FILE] [--methods wanda obs]

Without --stats the statistics are recorded first, as `python bench/encoder.py --stats FILE` does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import mc
from encoder import PARAGRAPHS, Array, load, moments, tokens
from encoder import run as record
from held_out import EVERYDAY, SENTENCE
from models import NAMES, paths
from sentences import EVALUATED, recorded

METHODS = (
    "magnitude,scope=row,sparsity=0.5", "wanda,sparsity=0.5", "obs,sparsity=0.5", "2:4", "wanda,pattern=2:4",
    "obs,pattern=2:4", "low-rank,share=0.5",
)  # fmt: skip
KEPT = ("embeddings.*", "pooler.*")
COUNT = 400  # sentences of the kind that is recorded


def unseen(paragraphs: int) -> list[str]:
    """Sentences of paragraphs that aren't recorded and whose words stand in no recorded one, taken evenly."""
    used = recorded(paragraphs)
    listed, joined = set(used), "\n".join(used)
    found = [match[0] for text in recorded() if text not in listed and (match := SENTENCE.search(text))]
    clean = [text for text in dict.fromkeys(found) if text not in joined]
    return [clean[index * len(clean) // COUNT] for index in range(min(COUNT, len(clean)))]


def grams(original: Mapping[str, Array], texts: Sequence[str]) -> dict[str, Array]:
    """Gram matrices of the inputs of each weight on these texts."""
    found = moments(original, texts)
    return {name.removesuffix(".xtx"): np.asarray(g, np.float32) for name, g in found.items() if name.endswith(".xtx")}


def error(original: Mapping[str, Array], pruned: Mapping[str, Array], given: Mapping[str, Array]) -> float:
    """The pooled error on inputs with these Gram matrices, over the matrices of the encoder."""
    squared = power = 0.0
    for name, gram in given.items():
        if name.startswith("encoder."):
            w = original[name].astype(np.float64)
            apart, g = w - pruned[name], gram.astype(np.float64)
            squared += float(np.einsum("ij,ij->", apart @ g, apart))
            power += float(np.einsum("ij,ij->", w @ g, w))
    return squared / power


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of pruned matrices on inputs that nothing was chosen by.")
    parser.add_argument("--stats", type=Path, metavar="FILE", help="recorded on the same paragraphs")
    parser.add_argument("--paragraphs", type=int, default=PARAGRAPHS, help="that inputs are recorded on")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    given = parser.parse_args()
    source = paths()[NAMES.index("minilm-f32")]
    with threadpool_limits(1, "blas"), tempfile.TemporaryDirectory() as place:
        stats = given.stats or Path(place) / "stats.safetensors"
        if not given.stats:
            record(stats, given.paragraphs, ())
        original, texts = load(source), (unseen(given.paragraphs), [*EVALUATED, *EVERYDAY])
        inputs = [grams(original, one) for one in texts]
        sizes = ", ".join(f"{len(one)} with {sum(map(len, tokens(one)))} tokens" for one in texts)
        print(f"sentences: {sizes}", flush=True)
        print("method\terror\ton recorded inputs\tsame kind\teveryday", flush=True)
        for method in given.methods:
            out, floats = Path(place) / "p.safetensors", Path(place) / "f.safetensors"
            report = mc.prune(source, out, method=method, keep=KEPT, stats=stats).files[0]
            mc.dequantize(out, floats)
            tensors = load(floats)
            found = [error(original, tensors, one) for one in inputs]
            weighted = report.weighted if report.weighted is not None else float("nan")
            print(method, *(f"{one:.4f}" for one in (report.error, weighted, *found)), sep="\t", flush=True)
            out.unlink()
            floats.unlink()


if __name__ == "__main__":
    main()
