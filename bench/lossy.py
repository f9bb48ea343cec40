"""Compares mc's grid and trellis with NNCodec and formats of fixed rate: error against bits, and CPU time.

    python bench/lossy.py [FILE ...] [--errors E ...] [--qps QP ...] [--function] [--json F] [--svg F]

Without files it takes MiniLM in f32 (bench/models.py). `make bench-lossy` also makes the Python that NNCodec runs in.

How it measures
- Weights are all tensors that `mc quantize` takes unasked: floats of two dimensions or more. The error is the sum of
  squared differences over the sum of squares, pooled over them; one step for all (`plain`, `--overall`).
- Bits are all bytes: of mc those of the packed tensors with tables, scales, escapes and heads of chunks; of NNCodec the
  whole bitstream; of others codes and scales. The header of a safetensors file isn't counted for anybody.
- Errors are computed from what was decoded.
- Speeds are millions of weights in a second of CPU time (all threads together), at a step that is known: rounding and
  coding one way, decoding to f32 the other. They hold on a machine that others use too; wall times wouldn't.
- What is quoted and not run is named so.
- The bound is Shannon's for Gaussian weights whose variances, row x column, are known for nothing.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import log, log2
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

import mc
import scatter
from fixed import QUOTED, Array, Format, formats
from lossless import cpu_model, note
from mc.checkpoint import Source
from mc.loader import Checkpoint
from mc.lossy import arrays
from mc.lossy.files import Floats, plain_layout, read_array
from mc.lossy.loops import powers
from mc.lossy.measure import EIGHTH
from mc.lossy.passes import Job, write
from mc.lossy.requests import Target, assign, parse_request
from mc.lossy.sizes import packed_parts
from mc.lossy.targets import steps_for
from mc.parallel import Workers
from models import FOLDER, NAMES, paths

ERRORS = (0.00033, 0.00526, 0.00865, 0.0161, 0.0235, 0.0904)
SCHEMES = ("grid", "trellis,effort=8", "trellis,effort=64")
QPS = (-26, -22)
NNCODEC = Path(__file__).resolve().parent.parent / ".venv" / "nncodec" / "bin" / "python"
PEER = Path(__file__).resolve().parent / "nncodec_peer.py"
Made = TypeVar("Made")


@dataclass(frozen=True)
class Point:
    """What one tool makes of all matrices."""

    tool: str
    error: float
    bits: float  # a weight
    encode: float | None = None  # millions of weights in a CPU second
    decode: float | None = None
    quoted: bool = False


Files = dict[str, tuple[list[Point], Callable[[float], float]]]  # points, and the bound


def timed(function: Callable[[], Made]) -> tuple[Made, float]:
    began = time.process_time()
    made = function()
    return made, time.process_time() - began


def read(path: Path) -> dict[str, Array]:
    """The matrices of a file, f32 [rows, cols]."""
    with Source.of(path) as source:
        layout = plain_layout(source)
        wanted, _ = assign(layout.tensors, parse_request("grid"), (), ())
        return {
            one.name: arrays.as_matrix(read_array(source, one), one.dtype, one.shape)
            for one in layout.tensors
            if one.name in wanted
        }


def ours(path: Path, matrices: dict[str, Array], scheme: str, limit: float) -> Point:
    """mc with the step that just meets the error; the search isn't timed."""
    weights, work = sum(w.size for w in matrices.values()), Workers(None, 1)
    with Source.of(path) as source, tempfile.TemporaryFile() as plain, io.BytesIO() as packed:
        layout = plain_layout(source)
        wanted, _ = assign(layout.tensors, parse_request(scheme), (), ())
        job = Job(wanted, "plain", 0, "default", Target("error", limit, True))
        steps = steps_for(str(path), [(source, layout)], job, work)

        def encode() -> int:
            made = write(source, layout, job, steps, plain, work, lambda _: None)
            plain.flush()
            parts, _ = packed_parts(Source.of(plain, "plain"), made.recipe, "default", work, packed)
            return sum(one.packed_bytes for one in parts.values())

        size, encoding = timed(encode)
        with Floats(Checkpoint(Source.of(io.BytesIO(packed.getvalue()), "packed"))) as floats:
            back, decoding = timed(lambda: {name: floats.tensor(name) for name in matrices})
    return Point(
        scheme, error(matrices, back), 8 * size / weights, weights / encoding / 1e6, weights / decoding / 1e6
    )  # fmt: skip


def theirs(tool: Format, matrices: dict[str, Array]) -> Point | None:
    """A format of fixed rate; None if a matrix doesn't fit."""
    if any(w.shape[1] % tool.block for w in matrices.values()):
        note(f"{tool.name} has blocks of {tool.block} columns, which don't fit: left out.")
        return None
    weights = sum(w.size for w in matrices.values())
    tool.encode(next(iter(matrices.values())))  # what is compiled at first use isn't timed
    stored, encoding = timed(lambda: {name: tool.encode(w) for name, w in matrices.items()})
    back, decoding = timed(lambda: {name: tool.decode(stored[name], w.shape) for name, w in matrices.items()})
    bits = 8 * sum(tool.size(one) for one in stored.values()) / weights
    return Point(tool.name, error(matrices, back), bits, weights / encoding / 1e6, weights / decoding / 1e6)


def nncodec(matrices: dict[str, Array], qps: Sequence[int]) -> Iterator[Point]:
    """NNCodec at some quantization parameters, if its Python is there."""
    if not NNCODEC.is_file():
        note("NNCodec is left out: make bench-lossy installs it.")
        return
    weights = sum(w.size for w in matrices.values())
    with tempfile.TemporaryDirectory() as place:
        np.savez(Path(place) / "matrices.npz", **matrices)  # type: ignore[arg-type] # names, not its options
        command = [str(NNCODEC), str(PEER), str(Path(place) / "matrices.npz"), *map(str, qps)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        note(f"NNCodec is left out: {done.stderr.strip().splitlines()[-1]}")
        return
    for line in done.stdout.splitlines():
        found = json.loads(line)
        speeds = (weights / found[f"{way}_seconds"] / 1e6 for way in ("encode", "decode"))
        yield Point(
            f"NNCodec qp {found['qp']}", found["squared"] / found["power"], 8 * found["bytes"] / weights, *speeds
        )


def error(matrices: dict[str, Array], back: dict[str, Array]) -> float:
    squared = sum(
        float(np.square(back[name].reshape(w.shape) - w, dtype=np.float64).sum()) for name, w in matrices.items()
    )
    return squared / sum(float(np.square(w, dtype=np.float64).sum()) for w in matrices.values())


def bound_of(matrices: dict[str, Array]) -> Callable[[float], float]:
    """Bits a weight that an error needs over all matrices, were weights Gaussian with variances row x column: reverse
    water-filling (Cover and Thomas, 10.3.3)."""
    counts: dict[int, float] = {}
    for w in matrices.values():
        rows, columns = np.empty(w.shape[0]), np.empty(w.shape[1])
        powers(w, rows, columns)
        octaves = [np.rint(EIGHTH * np.log2(one[one > 0])).astype(np.int64) for one in (rows, columns)]
        if not all(map(len, octaves)):
            continue
        found = np.convolve(np.bincount(octaves[0] - octaves[0].min()), np.bincount(octaves[1] - octaves[1].min()))
        low = sum(int(one.min()) for one in octaves)
        for at, count in enumerate(found):
            counts[low + at] = counts.get(low + at, 0.0) + float(count)
    variances = np.exp2(np.array(list(counts)) / EIGHTH)
    times = np.array(list(counts.values()))
    weights, power = sum(w.size for w in matrices.values()), float((variances * times).sum())

    def bits(wanted: float) -> float:
        least, most = 0.0, float(variances.max())
        for _ in range(60):
            level = (least + most) / 2
            over = float((np.minimum(level, variances) * times).sum()) > wanted * power
            least, most = (least, level) if over else (level, most)
        above = variances > most
        return float((times[above] * np.log2(variances[above] / most)).sum()) / 2 / weights

    return bits


def between(points: Sequence[Point], wanted: float) -> float | None:
    """Bits at an error between those of measured points: straight lines over its logarithm."""
    found = sorted(points, key=lambda point: point.error)
    if len(found) < 2 or not found[0].error <= wanted <= found[-1].error:
        return None
    return float(np.interp(log(wanted), [log(point.error) for point in found], [point.bits for point in found]))


def table(points: Sequence[Point], bound: Callable[[float], float]) -> str:
    """Markdown. Beside each point of others: what mc takes at that error."""
    rows = [
        "| | error | bits | `grid` | `trellis` | Shannon bound | encode, M/s | decode, M/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    grids, trellises = ([point for point in points if point.tool == tool] for tool in SCHEMES[:2])
    for point in points:
        known = point.tool in SCHEMES
        same = [None if known else between(found, point.error) for found in (grids, trellises)]
        cells = ["" if one is None else f"{one:.2f}" for one in (*same, bound(point.error))]
        speeds = ["" if one is None else f"{one:.3g}" for one in (point.encode, point.decode)]
        name = point.tool.replace(",effort=", ", states: ") + (" (quoted)" if point.quoted else "")
        rows.append(f"| {name} | {point.error:.3g} | {point.bits:.2f} | {' | '.join([*cells, *speeds])} |")
    return "\n".join(rows)


def picture(files: Files, caption: str) -> str:
    panels = []
    for name, (points, bound) in files.items():
        lines = []
        for tool in SCHEMES:
            at = sorted((point.error, point.bits) for point in points if point.tool == tool)
            if at:
                lines.append(scatter.Line(tool.replace(",effort=", " "), at, True))
        peers = [point for point in points if point.tool not in SCHEMES]
        least, most = (which(point.error for point in points) for which in (min, max))
        errors = [least * 2 ** (step * log2(most / least) / 40) for step in range(41)]
        lines.append(scatter.Line("Shannon bound", [(one, bound(one)) for one in errors], False, True))
        marks = [
            scatter.Point(point.tool + ("*" if point.quoted else ""), point.error, point.bits, False) for point in peers
        ]
        panels.append(
            scatter.Panel(name, "relative squared error (* quoted, not run)", marks, lines, "bits a weight")
        )  # fmt: skip
    return scatter.draw(panels, caption)


FUNCTION = (
    ("grid", "gram", 2.9), ("grid", "gram", 2.4), ("trellis", "gram", 2.9), ("trellis", "gram", 2.4),
    ("grid", "row", 2.3), ("grid", "plain", 2.3),
)  # fmt: skip


def function(path: Path) -> list[dict[str, Any]]:
    """1 - cosine of MiniLM's embeddings on sentences that nothing was recorded on."""
    from safetensors.numpy import save_file

    from encoder import PARAGRAPHS, apart, embed, load, moments
    from sentences import EVALUATED, recorded

    original, found = load(path), []
    wanted, weights = embed(original, EVALUATED), sum(w.size for w in read(path).values())

    def add(name: str, tensors: dict[str, Any], bits: float) -> None:
        found.append({"tool": name, "bits": bits, "apart": apart(tensors, wanted), "sentences": len(EVALUATED)})

    for tool in formats():
        if tool.name in ("GGUF Q4_0", "GGUF Q8_0"):
            stored = {name: tool.encode(w) for name, w in read(path).items()}
            back = {name: tool.decode(one, original[name].shape) for name, one in stored.items()}
            add(tool.name, {**original, **back}, 8 * sum(tool.size(one) for one in stored.values()) / weights)
    with tempfile.TemporaryDirectory() as place:
        stats, quantized, floats = (Path(place) / f"{name}.safetensors" for name in ("stats", "quantized", "floats"))
        save_file(moments(original, recorded(PARAGRAPHS)), stats, {"format": "mc.statistics"})
        for scheme, objective, bits in FUNCTION:
            given = stats if objective == "gram" else None
            report = mc.quantize(
                path, quantized, scheme=scheme, limit=Target("bits", bits), objective=objective, stats=given, threads=1
            )
            mc.dequantize(quantized, floats)
            add(f"{scheme}, {objective}", load(floats), report.files[0].bits)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare error against bits of lossy formats.")
    add = parser.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help="safetensors; default: MiniLM in f32")
    add("--errors", type=float, nargs="+", default=ERRORS, metavar="E", help="that mc is to meet")
    add("--schemes", nargs="+", default=SCHEMES, choices=SCHEMES, help="of mc")
    add("--qps", type=int, nargs="*", default=QPS, metavar="QP", help="of NNCodec; none: leave it out")
    add("--function", action="store_true", help="also compare embeddings of MiniLM; takes minutes")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--svg", type=Path, metavar="FILE", help="draw error against bits there")
    return parser.parse_args()


def run(path: Path, matrices: dict[str, Array], options: argparse.Namespace) -> Iterator[Point]:
    """Every tool in turn."""
    yield from (point for tool in formats() if (point := theirs(tool, matrices)))
    if options.qps:
        yield from nncodec(matrices, options.qps)
    small = {name: matrices[name] for name in sorted(matrices, key=lambda name: matrices[name].size)[:1]}
    for scheme in options.schemes:
        compile_loops(scheme, small)
        for error in options.errors:
            yield ours(path, matrices, scheme, error)


def compile_loops(scheme: str, matrices: dict[str, Array]) -> None:
    """What is compiled at first use isn't timed."""
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "small.safetensors"
        save_file(matrices, path)
        ours(path, matrices, scheme, 0.02)


def keep(options: argparse.Namespace, document: dict[str, Any], files: Files) -> None:
    """Write the figures and the picture, where they were asked for."""
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(picture(files, f"{cpu_model()}; all bytes counted"))


def main() -> None:
    options = arguments()
    print(f"{cpu_model()}; speeds are of CPU time", flush=True)
    minilm = FOLDER / f"{NAMES[0]}.safetensors"
    if not options.files or options.function:
        minilm = minilm if minilm.is_file() else paths()[0]
    files: Files = {}
    document: dict[str, Any] = {"cpu": cpu_model(), "files": {}}
    with threadpool_limits(1):
        for path in options.files or [minilm]:
            matrices = read(path)
            weights = sum(w.size for w in matrices.values())
            quoted = QUOTED if path == minilm else ()
            bound = bound_of(matrices)
            points = [Point(name, error, bits, quoted=True) for name, bits, error in quoted]
            files[path.stem] = points, bound
            for point in run(path, matrices, options):
                note(f"{point.tool}: error {point.error:.4g}, {point.bits:.3f} bits")
                points.append(point)
                document["files"][path.stem] = [asdict(one) | {"bound": bound(one.error)} for one in points]
                keep(options, document, files)  # a run takes long: what there is can be seen, and isn't lost
            print(f"\n{path.stem}: {weights:,} weights in {len(matrices)} matrices\n\n{table(points, bound)}")
        if options.function:
            document["function"] = function(minilm)
            print("\n| | bits | 1 - cosine |\n| --- | ---: | ---: |")
            for one in document["function"]:
                print(f"| {one['tool']} | {one['bits']:.2f} | {one['apart']:.4f} |")
            keep(options, document, files)


if __name__ == "__main__":
    main()
