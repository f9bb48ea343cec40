"""The tools that bench/lossless.py compares: mc at its levels, and its peers, each set to use one thread.

Every tool is imported when it is first used, so that those that are not installed can be left out.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

OURS = "mc-checkpoint"  # the package that mc is in

# Without an installed mc, the one of this checkout.
sys.path.append(str(Path(__file__).resolve().parent.parent / "core"))


class Unsupported(Exception):
    """A tool has no coder for the dtype."""


class Coder:
    """A tool, set up for one dtype. Of its methods only `compress` and `decompress` are timed."""

    def prepare(self, data: bytes) -> Any:
        """What `compress` takes."""
        return data

    def compress(self, prepared: Any) -> Any:
        raise NotImplementedError

    def size(self, packed: Any) -> int:
        return len(packed)

    def decompress(self, packed: Any) -> Any:
        raise NotImplementedError

    def restored(self, result: Any) -> bytes:
        """What `decompress` returned, as bytes."""
        return bytes(result)


class Mc(Coder):
    def __init__(self, level: Literal["fast", "default", "best"]) -> None:
        from mc import compress, decompress

        self.level, self._compress, self._decompress = level, compress, decompress

    def compress(self, prepared: bytes) -> Any:
        return self._compress(prepared, level=self.level, threads=1)

    def decompress(self, packed: bytes) -> Any:
        return self._decompress(packed, threads=1)


class ZipNN(Coder):
    DTYPES: ClassVar[dict[str, str]] = {
        "BF16": "bfloat16",
        "F16": "float16",
        "F32": "float32",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
    }

    def __init__(self, dtype: str) -> None:
        from zipnn import ZipNN as Tool

        if dtype not in self.DTYPES:
            raise Unsupported
        self.tool: Callable[[], Any] = lambda: Tool(input_format="byte", bytearray_dtype=self.DTYPES[dtype], threads=1)

    def prepare(self, data: bytes) -> bytearray:
        return bytearray(data)  # zipnn reorders the bits of its input in place, even those of immutable bytes

    def compress(self, prepared: bytearray) -> Any:
        return self.tool().compress(prepared)

    def decompress(self, packed: bytes) -> Any:
        return self.tool().decompress(packed)


class OpenZL(Coder):
    """Exponents to an entropy coder, signs and fractions stored, or coded too where that is smaller. It has no such
    parting of 8-bit floats."""

    PARTED: ClassVar[dict[str, tuple[str, str]]] = {
        "BF16": ("BFloat16Deconstruct", "<u2"),
        "F16": ("Float16Deconstruct", "<u2"),
        "F32": ("Float32Deconstruct", "<u4"),
    }

    def __init__(self, entropy: str, dtype: str) -> None:
        import numpy
        from openzl import ext

        self.numpy, self.ext, self.compressor = numpy, ext, ext.Compressor()
        coder = getattr(ext.graphs, entropy)()(self.compressor)
        if dtype in self.PARTED:
            node, self.number = self.PARTED[dtype]
            rest = ext.graphs.Store()(self.compressor)
            if dtype == "F16":
                # Its 11 bits of sign and fraction come in 16; stored so, they would undo the gain.
                rest = ext.graphs.Bitpack()(self.compressor)
                rest = ext.nodes.ConvertStructToNumLE()(self.compressor, rest)
            elif dtype == "F32":
                # Byte by byte, its coder finds what is narrower than f32 in an f32 file; stored, that gain is lost.
                rest = ext.nodes.TransposeSplit()(self.compressor, coder)
            graph = getattr(ext.nodes, node)()(self.compressor, rest, coder)
            self.kind = ext.Type.Numeric
        elif dtype.startswith("F8_"):
            graph, self.number, self.kind = coder, "u1", ext.Type.Serial
        else:
            raise Unsupported
        self.compressor.select_starting_graph(graph)

    def prepare(self, data: bytes) -> Any:
        return self.numpy.frombuffer(data, self.number)

    def compress(self, prepared: Any) -> Any:
        context = self.ext.CCtx()
        context.ref_compressor(self.compressor)
        context.set_parameter(self.ext.CParam.FormatVersion, self.ext.MAX_FORMAT_VERSION)
        return context.compress([self.ext.Input(self.kind, prepared)])

    def decompress(self, packed: bytes) -> Any:
        return self.ext.DCtx().decompress(packed)

    def restored(self, result: Any) -> bytes:
        return bytes(result[0].content.as_bytes())


class Lmz(Coder):
    def __init__(self) -> None:
        import lmz

        self.lmz = lmz
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = tempfile.TemporaryDirectory(dir=memory)  # which goes when this object does
        place = Path(self.folder.name)
        self.plain, self.packed, self.result = place / "plain", place / "packed", place / "result"

    def prepare(self, data: bytes) -> None:
        self.plain.write_bytes(data)

    def compress(self, _: None) -> None:
        self.lmz.compress(str(self.plain), str(self.packed), workers=1)

    def size(self, _: None) -> int:
        return self.packed.stat().st_size

    def decompress(self, _: None) -> None:
        self.lmz.decompress(str(self.packed), str(self.result), workers=1)

    def restored(self, _: None) -> bytes:
        data = self.result.read_bytes()
        for path in (self.plain, self.packed, self.result):
            path.unlink()  # so that each round writes new files
        return data


class Pcodec(Coder):
    DTYPES: ClassVar[dict[str, str]] = {
        "BF16": "<u2",  # it knows no bfloat16, but 16-bit integers
        "F16": "<f2",
        "F32": "<f4",
        "F64": "<f8",
        "F8_E4M3": "u1",
        "F8_E5M2": "u1",
    }

    def __init__(self, dtype: str) -> None:
        import numpy
        from pcodec import ChunkConfig, standalone

        if dtype not in self.DTYPES:
            raise Unsupported
        self.numpy, self.tool, self.number = numpy, standalone, self.DTYPES[dtype]
        self.config = ChunkConfig(enable_8_bit=True)

    def prepare(self, data: bytes) -> Any:
        return self.numpy.frombuffer(data, self.number)

    def compress(self, prepared: Any) -> Any:
        return self.tool.simple_compress(prepared, self.config)

    def decompress(self, packed: bytes) -> Any:
        return self.tool.simple_decompress(packed)

    def restored(self, result: Any) -> bytes:
        return bytes(result.tobytes())


class Zstd(Coder):
    def __init__(self, level: int) -> None:
        import zstandard

        self.packer = zstandard.ZstdCompressor(level=level, threads=0)  # 0: no threads beside the caller's
        self.unpacker = zstandard.ZstdDecompressor()

    def compress(self, prepared: bytes) -> Any:
        return self.packer.compress(prepared)

    def decompress(self, packed: bytes) -> Any:
        return self.unpacker.decompress(packed)


class Xz(Coder):
    def __init__(self, level: int) -> None:
        import lzma

        self.lzma, self.level = lzma, level

    def compress(self, prepared: bytes) -> Any:
        return self.lzma.compress(prepared, preset=self.level)

    def decompress(self, packed: bytes) -> Any:
        return self.lzma.decompress(packed)


@dataclass(frozen=True)
class Tool:
    name: str
    coder: Callable[[str], Coder]  # of a dtype; raises Unsupported or ImportError
    package: str = ""  # that has its version
    whole: bool = True  # it takes files as they are, not arrays of one dtype
    slow: bool = False

    @property
    def ours(self) -> bool:
        return self.package == OURS


TOOLS = (
    Tool("mc-fast", lambda _: Mc("fast"), OURS),
    Tool("mc-default", lambda _: Mc("default"), OURS),
    Tool("mc-best", lambda _: Mc("best"), OURS),
    Tool("zipnn", ZipNN, "zipnn", whole=False),
    Tool("openzl-huffman", lambda dtype: OpenZL("Huffman", dtype), "openzl", whole=False),
    Tool("openzl-fse", lambda dtype: OpenZL("Fse", dtype), "openzl", whole=False),
    Tool("lmz", lambda _: Lmz(), "lmzip"),
    Tool("pcodec", Pcodec, "pcodec", whole=False, slow=True),
    Tool("zstd-3", lambda _: Zstd(3), "zstandard"),
    Tool("zstd-19", lambda _: Zstd(19), "zstandard", slow=True),
    Tool("xz-6", lambda _: Xz(6), slow=True),
)
