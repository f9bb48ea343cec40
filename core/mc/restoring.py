"""What `import mc` offers of quantized and pruned weights: floats again, and how far they are from the original's."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from math import prod
from pathlib import Path
from typing import BinaryIO

from mc.checkpoint import Source
from mc.dtypes import element_bits
from mc.errors import McError, UsageError, quote
from mc.folder import PACKED_SUFFIX, plain_name, read_folder
from mc.loader import Checkpoint
from mc.lossy.against import TensorError, errors
from mc.lossy.configs import without_quantization
from mc.lossy.files import Floats, dequantize_file
from mc.parallel import Workers, workers
from mc.places import PathLike, is_folder, name_of, new_folder, random_access, writing
from mc.progress import Done, Progress
from mc.recipe import Recipe
from mc.reports import RestoredFile, UnpackReport
from mc.rewriting import rewritable, rewrite

DTYPES = {"f32": "F32", "fp16": "F16", "bf16": "BF16", "f64": "F64"}


def dequantize(
    source: PathLike | BinaryIO, target: PathLike | BinaryIO, *, dtype: str | None = None, threads: int | None = None,
    executor: Executor | None = None, progress: Progress | None = None,
) -> UnpackReport:  # fmt: skip
    """Plain floats under the original names, from a quantized file, stream or folder, packed or not. `dtype`: bf16,
    fp16, f32 or f64, for all floats; by default what each tensor was. DamagedError for bytes that aren't sound."""
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"The dtype {quote(dtype)} isn't one of {', '.join(DTYPES)}.")
    wanted = DTYPES[dtype] if dtype else None
    with workers(threads, executor) as work:
        if is_folder(source):
            return _dequantize_folder(Path(str(source)), target, wanted, work, progress)
        with (
            random_access(source) as opened,
            writing(target) as out,
            Floats(Checkpoint(opened), wanted) as floats,
        ):
            _refuse_plain([floats.recipe], opened.where)
            return UnpackReport((_dequantize_one(floats, opened, out, name_of(target), work, progress),))


def _refuse_plain(recipes: Sequence[Recipe], where: str) -> None:
    if not any(recipes):
        raise McError(f"{where} is not quantized: it has no recipe. `mc unpack` restores what was packed.")


def _dequantize_one(
    floats: Floats, source: Source, out: BinaryIO, name: str, work: Workers, progress: Progress | None
) -> RestoredFile:
    done = Done(sum(_bytes(floats, one) for one in floats.names()), progress)
    size, sha256 = dequantize_file(floats, out, work, done.step)
    source.unchanged()
    return RestoredFile(source.where, name, size, source.size, sha256, False)


def _bytes(floats: Floats, name: str) -> int:
    return prod(floats.shape(name)) * (element_bits(floats.dtype(name)) or 8) // 8


def _dequantize_folder(
    path: Path, target: PathLike | BinaryIO, dtype: str | None, work: Workers, progress: Progress | None
) -> UnpackReport:
    folder = rewritable(path)
    plain = {name: plain_name(name) if folder.packed else name for name in folder.shards}
    files: list[RestoredFile] = []
    recipes: list[Recipe] = []
    held: dict[str, list[tuple[str, int]]] = {}
    with new_folder(folder, target, plain.values()) as anew:
        for name in folder.shards:
            with (
                Source.of(path / name) as opened,
                Floats(Checkpoint(opened), dtype) as floats,
                anew.shard(plain[name]) as (out, shown),
            ):
                files.append(_dequantize_one(floats, opened, out, shown, work, progress))
                held[plain[name]] = [(one, _bytes(floats, one)) for one in floats.names()]
                recipes.append(floats.recipe)
        _refuse_plain(recipes, str(path))
        rewrite(anew.place, folder, held, lambda text, where: without_quantization(text, where, dtype))
    return UnpackReport(tuple(files))


def measure(
    packed: PathLike | BinaryIO, original: PathLike | BinaryIO, *, threads: int | None = None,
    executor: Executor | None = None, progress: Progress | None = None,
) -> tuple[TensorError, ...]:  # fmt: skip
    """The error of every tensor of a quantized file or folder, packed or not, against the original's. DamagedError for
    bytes that can't be decoded, McError for what can't be read."""
    with workers(threads, executor) as work:
        if not is_folder(packed):
            return tuple(_measure_one(packed, original, work, progress))
        ours, theirs = Path(str(packed)), Path(str(original))
        found: list[TensorError] = []
        for name in read_folder(ours).shards:
            plain = plain_name(name) if name.endswith(PACKED_SUFFIX) else name
            found += _measure_one(ours / name, theirs / plain, work, progress)
        return tuple(found)


def _measure_one(
    packed: PathLike | BinaryIO, original: PathLike | BinaryIO, work: Workers, progress: Progress | None
) -> list[TensorError]:
    with random_access(packed) as one, random_access(original) as other:
        floats, plain = Floats(Checkpoint(one)), Checkpoint(other)
        done = Done(sum(_bytes(floats, name) for name in floats.names()), progress)
        found: list[TensorError] = []
        for error in errors(floats, plain, work):
            found.append(error)
            if error.name in floats.names():
                done.step(_bytes(floats, error.name))
        return found
