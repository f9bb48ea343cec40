"""Handwritten digits: how much smaller a small network gets before it reads half a per cent worse.

    python examples/digits.py

The network and the images are in fixtures/digits; train.py there made them. Nothing is trained here. The score is the
share of 898 images that are recognised.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

DIGITS = Path(__file__).resolve().parent.parent / "fixtures" / "digits"


def main() -> None:
    """Score, search, restore, score again."""
    model, judge = DIGITS / "model.safetensors", [sys.executable, str(DIGITS / "accuracy.py")]
    with tempfile.TemporaryDirectory() as place:
        small, restored = Path(place, "digits.mc.safetensors"), Path(place, "digits.safetensors")
        before = score(judge, model)
        print(f"Before: {model.stat().st_size} bytes, accuracy {before:.4f}.")
        command = shlex.join([*judge, "{}"])
        print(
            "$ mc auto model.safetensors -o digits.mc.safetensors --objective plain --max-drop 0.5% --eval '...'",
            flush=True,
        )
        run("auto", model, "-o", small, "--objective", "plain", "--eval", command, "--max-drop", "0.5%", quiet=True)
        run("verify", small)
        run("unpack", small, "--dequantize", "-o", restored, "-q")
        after, size = score(judge, restored), small.stat().st_size
        print(
            f"After: {size} bytes, {model.stat().st_size / size:.1f} times smaller; accuracy {after:.4f}, "
            f"a drop of {(before - after) / before:.2%}."
        )


def score(judge: list[str], model: Path) -> float:
    """The last line of the evaluator's output."""
    done = subprocess.run([*judge, str(model)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def run(*arguments: str | Path, quiet: bool = False) -> None:
    """Run mc; with `quiet`, only what it says on stderr is shown."""
    line = [sys.executable, "-m", "mc_cli", *map(str, arguments)]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL if quiet else None)


if __name__ == "__main__":
    main()
