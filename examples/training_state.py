"""A training state: weights stay exact, Adam's moments may be rounded, and training goes on as if nothing had happened.

    python examples/training_state.py

A network learns a made function for 400 steps and is saved with its moments. Then it goes on from the saved state, and
from what `mc auto` made of it; the losses after 200 more steps are compared.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Array = np.ndarray[Any, Any]
WIDTHS = (32, 256, 256, 8)
RATE, BATCH = 1e-3, 64


def started() -> dict[str, Array]:
    """Weights, and moments that are zero."""
    random = np.random.default_rng(0)
    state: dict[str, Array] = {}
    for number, (before, after) in enumerate(pairwise(WIDTHS), 1):
        for kind, w in (
            ("weight", random.normal(0, np.sqrt(2 / before), (after, before)).astype(np.float32)),
            ("bias", np.zeros(after, np.float32)),
        ):
            state[f"model.fc{number}.{kind}"] = w
            state[f"optimizer.exp_avg.fc{number}.{kind}"] = np.zeros_like(w)
            state[f"optimizer.exp_avg_sq.fc{number}.{kind}"] = np.zeros_like(w)
    state["optimizer.step"] = np.zeros(1, np.int64)
    return state


def batch(step: int) -> tuple[Array, Array]:
    """Inputs [n, 32] and what is to be learnt of them [n, 8], a function of the step."""
    x = np.random.default_rng(1000 + step).normal(size=(BATCH, WIDTHS[0])).astype(np.float32)
    teacher = np.random.default_rng(7).normal(0, 0.3, (WIDTHS[0], WIDTHS[-1])).astype(np.float32)
    return x, np.sin(2 * x @ teacher).astype(np.float32)


def train(state: dict[str, Array], steps: int) -> float:
    """Adam for so many steps more, in place; the mean loss of the last fifty."""
    losses = []
    for _ in range(steps):
        state["optimizer.step"] += 1
        step = int(state["optimizer.step"][0])
        x, wanted = batch(step)
        inputs, count = [x], len(WIDTHS) - 1
        for number in range(1, count + 1):
            x = x @ state[f"model.fc{number}.weight"].T + state[f"model.fc{number}.bias"]
            x = np.maximum(x, 0) if number < count else x
            inputs.append(x)
        losses.append(float(((x - wanted) ** 2).mean()))
        error = 2 * (x - wanted) / x.size
        for number in range(count, 0, -1):
            gradients = {"weight": error.T @ inputs[number - 1], "bias": error.sum(axis=0)}
            error = (error @ state[f"model.fc{number}.weight"]) * (inputs[number - 1] > 0)
            for kind, gradient in gradients.items():
                name = f"fc{number}.{kind}"
                first, second = state[f"optimizer.exp_avg.{name}"], state[f"optimizer.exp_avg_sq.{name}"]
                first += np.float32(0.1) * (gradient - first)
                second += np.float32(0.001) * (gradient**2 - second)
                mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
                state[f"model.{name}"] -= (RATE * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)
    return float(np.mean(losses[-50:]))


def main() -> None:
    """Train, save, compress in two ways, go on from each."""
    with tempfile.TemporaryDirectory() as place:
        saved = Path(place, "state.safetensors")
        state = started()
        loss = train(state, 400)
        save_file(state, saved)
        print(f"Saved after 400 steps: {saved.stat().st_size} bytes, loss {loss:.5f}.")
        again = load_file(saved)
        print(f"  200 steps more from the saved state: loss {train(again, 200):.5f}")
        for title, options in (
            ("without loss", ["--lossless"]),
            ("weights exact, first moments at 4 bits or so, second ones bf16", [
                "--max-error", "0.003", "--set", "*exp_avg.*=auto", "--set", "*exp_avg_sq.*=bf16"]),
        ):  # fmt: skip
            small, restored = Path(place, "small.mc.safetensors"), Path(place, "restored.safetensors")
            run("auto", str(saved), "-o", str(small), "-f", "-q", *options)
            run("unpack", str(small), "-o", str(restored), "-f", "-q", *(["--dequantize"] if len(options) > 1 else []))
            back = load_file(restored)
            exact = all(
                np.array_equal(back[name], w) for name, w in load_file(saved).items() if name.startswith("model.")
            )
            size = small.stat().st_size
            print(
                f"mc auto {' '.join(options)}: {size} bytes, {saved.stat().st_size / size:.2f} times smaller ({title})"
            )
            print(f"  weights are {'the same' if exact else 'others'}; 200 steps more: loss {train(back, 200):.5f}")


def run(*arguments: str) -> None:
    """Run mc."""
    subprocess.run([sys.executable, "-m", "mc_cli", *arguments], check=True)


if __name__ == "__main__":
    main()
