"""What the tests share: small checkpoints made on the spot, and the real command in a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., "subprocess.CompletedProcess[bytes]"]
# Seconds until a command counts as hung. The first one of a fresh checkout compiles for 40 CPU seconds, and waits for
# processors with all others: under load that was 111 seconds.
PATIENCE = 1200


def environment(**more: str) -> dict[str, str]:
    """The environment of a user: this checkout on the path, a wide plain terminal, no colour settings."""
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONPATH")}
    return {**kept, "PYTHONPATH": f"{ROOT / 'core'}{os.pathsep}{ROOT / 'cli'}", "TERM": "xterm", **more}


def program(text: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """What became of a Python program, in a process of its own with this checkout on the path."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment(**more))


def safetensors(tensors: Mapping[str, tuple[str, np.ndarray]], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file as bytes, in the given order; bf16 and other words are handed in as integers."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    start = 0
    for name, (dtype, values) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [start, start + values.nbytes],
        }
        start += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for _, values in tensors.values())


def weights(seed: int = 0) -> bytes:
    """A checkpoint of 0.3 MB with weights like those of a net, and the odd tensors that come with one."""
    draw = np.random.default_rng(seed)
    f32 = (draw.normal(size=(128, 192)) * draw.uniform(0.01, 0.1, size=(128, 1))).astype(np.float32)
    bf16 = (draw.normal(size=(192, 256)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return safetensors(
        {
            "encoder.dense.weight": ("F32", f32),
            "encoder.dense.bias": ("F32", f32[0].copy()),
            "decoder.dense.weight": ("BF16", bf16),
            "decoder.tied.weight": ("BF16", bf16),
            "half.weight": ("F16", f32[:32].astype(np.float16)),
            "position_ids": ("I64", np.arange(512, dtype=np.int64).reshape(1, 512)),
            "Überschrift\tname": ("U8", np.zeros((7,), np.uint8)),
            "step": ("I32", np.array(3, np.int32)),
            "empty": ("F32", np.zeros((0, 4), np.float32)),
        },
        {"format": "pt"},
    )


def document(done: Any) -> dict[str, Any]:
    """The one object that a command printed with --json."""
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == 1
    return found


def refused(done: Any, code: int) -> str:
    """What a command said that ended with this code, and printed nothing else."""
    assert (done.returncode, done.stdout) == (code, b""), (done.returncode, done.stderr.decode())
    assert b"Traceback" not in done.stderr
    text: str = done.stderr.decode()
    return text


def relative(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """The squared error of b, relative to the squares of a."""
    exact, near = a.astype(np.float64), b.astype(np.float64)
    return float(((exact - near) ** 2).sum() / (exact**2).sum())


@pytest.fixture(scope="session")
def env() -> dict[str, str]:
    """The environment for a process that a test starts by itself."""
    return environment()


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """The function that reads every file below a folder, hidden ones included."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return read


@pytest.fixture(scope="session")
def built() -> Callable[..., bytes]:
    """The function that builds safetensors bytes from {name: (dtype, array)}."""
    return safetensors


@pytest.fixture(scope="session")
def model() -> bytes:
    """The bytes of `model.safetensors` in `place`."""
    return weights()


@pytest.fixture(scope="session")
def mc() -> Command:
    """Run `mc` with arguments in a folder; exit code, stdout and stderr are as a shell would see them."""

    def run(
        *arguments: str | Path,
        cwd: Path,
        more_env: Mapping[str, str] = MappingProxyType({}),
        command: Sequence[str] = ("-m", "mc_cli"),
        **options: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        line = [sys.executable, *command, *map(str, arguments)]
        return subprocess.run(line, cwd=cwd, env=environment(**more_env), timeout=PATIENCE, **options)

    return run


@pytest.fixture
def mc_inside(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Like `mc`, without the second that a process of its own takes to start: for tests of what a command does, where
    `mc` is for tests of the process. What the command doesn't catch, the test sees."""
    from mc_cli.main import run as entered

    def run(*arguments: str | Path, cwd: Path, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        streams = [io.BytesIO(input), io.BytesIO(), io.BytesIO()]
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            wrappers = [io.TextIOWrapper(stream, "utf-8", write_through=True) for stream in streams]
            for name, wrapper in zip(("stdin", "stdout", "stderr"), wrappers, strict=True):
                patch.setattr(sys, name, wrapper)
            code = entered([str(one) for one in arguments])
            for wrapper in wrappers:
                wrapper.detach()  # or it would close what is read below
        return subprocess.CompletedProcess(arguments, code, streams[1].getvalue(), streams[2].getvalue())

    return run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `model.safetensors` and the sharded checkpoint `folder`, index and tokenizer included."""
    (tmp_path / "model.safetensors").write_bytes(weights())
    folder = tmp_path / "folder"
    (folder / "tokenizer").mkdir(parents=True)
    index: dict[str, str] = {}
    for number in (1, 2):
        shard = f"model-0000{number}-of-00002.safetensors"
        values = np.random.default_rng(number).normal(size=(64, 64)).astype(np.float32)
        (folder / shard).write_bytes(safetensors({f"layer.{number}.weight": ("F32", values)}))
        index[f"layer.{number}.weight"] = shard
    listing = {"metadata": {"total_size": 2 * 64 * 64 * 4}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listing, indent=2))
    (folder / "config.json").write_text("{}\n")
    (folder / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    return tmp_path


@pytest.fixture(scope="session")
def packed(mc: Command, model: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """`model` as `mc pack` packs it."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "model.safetensors").write_bytes(model)
    done = mc("pack", "model.safetensors", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return (folder / "model.mc.safetensors").read_bytes()
