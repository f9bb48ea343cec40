"""The codings by their numbers, the words of every dtype, and the chunks of tensors without rows."""

from mc.codec import planes
from mc.codec.fixed import CHUNK

# Codings by their numbers in a file (FORMAT.md, section 4).
RAW, FLOATS, AFFINE, PLANES, ZSTD, GRID, TRELLIS, SPARSE = range(8)
SCARCE, SPLIT = 15, 16  # 8 to 14 are ways to code the words of a sparse tensor

# Words of dtypes that aren't floats to the codec; any other, an unknown one too, is a string of bytes.
WIDTHS = {"I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}


def word_width(dtype: str, nbytes: int) -> int:
    """Bytes of a word of this dtype as the codec sees it."""
    width = planes.GEOMETRIES[dtype].width if dtype in planes.GEOMETRIES else WIDTHS.get(dtype, 1)
    return width if nbytes % width == 0 else 1


def plain_spans(nbytes: int, width: int) -> list[tuple[int, int]]:
    """Chunks of a tensor without rows."""
    step = CHUNK * width
    return [(at, min(at + step, nbytes)) for at in range(0, nbytes, step)]
