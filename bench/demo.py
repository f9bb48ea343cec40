"""`make demo`: pack, verify and restore a real BERT encoder with the command, then compare with other tools.

Two things are measured, and not mixed: first the command as a person runs it (file to file, start-up and all,
all cores), then the coding alone beside other tools (buffer to buffer, one thread), by bench/lossless.py.
"""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import models

HERE: Final = Path(__file__).resolve().parent
SHOWN: Final = ("minilm-bf16", "minilm-f32")
PEERS: Final = "mc,openzl,lmz,zstd-3,xz"  # none of them needs torch
CORE: Final = os.pathsep.join(str(HERE.parent / name) for name in ("core", "cli"))  # without an install too


def main() -> None:
    """Run the demo and print it."""
    print(
        f"MiniLM, a BERT encoder: f32 as shipped ({models.PACKAGE}), and cast to bf16, as it is often kept."
    )
    paths = [path for path in models.paths() if path.stem in SHOWN]
    print(
        "\nThe command: file to file, start-up included, all cores; in brackets, seconds by the clock.",
        flush=True,
    )
    command("warm")
    for path in sorted(paths):
        there_and_back(path)
    print("\nThe coding alone: buffer to buffer in one process, one thread, interleaved rounds.", flush=True)
    comparison = [sys.executable, str(HERE / "lossless.py"), "--only", PEERS, "--rounds", "3"]
    subprocess.run([*comparison, *map(str, sorted(paths))], env=environment(), check=True)


def there_and_back(model: Path) -> None:
    """Pack, verify and restore one file as a shell would, and compare the bytes."""
    packed, again = model.with_suffix(".mc.safetensors"), model.with_suffix(".again.safetensors")
    try:
        command("pack", model.name, "--force")
        command("verify", packed.name)
        command("unpack", packed.name, "--check", "--force", "-o", again.name)
        if not filecmp.cmp(model, again, shallow=False):
            sys.exit(f"{again} differs from {model}, which must never happen.")
        print(f"  {again.name} and {model.name} are equal, byte for byte.", flush=True)
    finally:
        packed.unlink(missing_ok=True)
        again.unlink(missing_ok=True)


def command(*arguments: str) -> None:
    """Run `mc` where the models are; show the line, the last thing it says, and the time it took."""
    line = [sys.executable, "-m", "mc_cli", *arguments]
    began = time.perf_counter()
    done = subprocess.run(
        line,
        cwd=models.FOLDER,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"mc {' '.join(arguments)} ended with exit code {done.returncode}:\n{done.stdout}")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    print(f"  $ mc {' '.join(arguments)}\n    {last}   [{seconds:.2f} s]", flush=True)


def environment() -> dict[str, str]:
    """This process's environment with this checkout on Python's path."""
    return {**os.environ, "PYTHONPATH": CORE}


if __name__ == "__main__":
    main()
