"""A recommender: two embedding tables and a small head, trained here on made data, before and after `mc auto`.

    python examples/recommender.py                  # train, score, compress, score again
    python examples/recommender.py score FILE       # what mc runs: the ranking metric, as the last line

The data: 1500 users and 2000 items with hidden tastes of eight dimensions; each user has picked 32 of the items that
suit best, with luck. 24 of them are learnt from (with Bayesian personalised ranking, arXiv 1205.2618), the others are
to be found: the score is NDCG at 20 over items that weren't learnt.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Array = np.ndarray[Any, Any]
USERS, ITEMS, TASTES, WIDTH = 1500, 2000, 8, 64
PICKED, LEARNT, SHOWN = 32, 24, 20
STEPS, BATCH, RATE, DECAY = 500, 4096, 0.01, 1e-2


def made() -> tuple[Array, Array]:
    """Items that each user picked, i64 [users, picked]: those to learn from, and those to be found."""
    random = np.random.default_rng(0)
    users, items = random.normal(size=(USERS, TASTES)), random.normal(size=(ITEMS, TASTES))
    liking = users @ items.T + random.normal(0, 0.7, ITEMS) + random.gumbel(size=(USERS, ITEMS))
    picked = np.argsort(-liking, axis=1)[:, :PICKED]
    picked = random.permuted(picked, axis=1)
    return picked[:, :LEARNT], picked[:, LEARNT:]


def scores(model: dict[str, Array]) -> Array:
    """How well every item suits every user, f32 [users, items]: the head weighs the dimensions of both tables."""
    found: Array = (model["user.weight"] @ model["head.weight"]) @ model["item.weight"].T + model["item.bias"]
    return found


def ndcg(model: dict[str, Array]) -> float:
    """NDCG at 20 of the items to be found, those that were learnt from left out."""
    learnt, wanted = made()
    found = scores(model)
    np.put_along_axis(found, learnt, -np.inf, axis=1)
    top = np.argsort(-found, axis=1, kind="stable")[:, :SHOWN]
    worth = 1 / np.log2(np.arange(SHOWN) + 2)
    hits = (top[:, :, None] == wanted[:, None, :]).any(axis=2)
    return float(((hits * worth).sum(axis=1) / worth[: wanted.shape[1]].sum()).mean())


def train() -> dict[str, Array]:
    """Adam on pairs of a picked item and another one."""
    random = np.random.default_rng(1)
    learnt, _ = made()
    model = {
        "user.weight": random.normal(0, 0.1, (USERS, WIDTH)).astype(np.float32),
        "item.weight": random.normal(0, 0.1, (ITEMS, WIDTH)).astype(np.float32),
        "head.weight": np.eye(WIDTH, dtype=np.float32),
        "item.bias": np.zeros(ITEMS, np.float32),
    }
    first, second = ({name: np.zeros_like(w) for name, w in model.items()} for _ in range(2))
    for step in range(1, STEPS + 1):
        who = random.integers(0, USERS, BATCH)
        good, bad = learnt[who, random.integers(0, LEARNT, BATCH)], random.integers(0, ITEMS, BATCH)
        user, apart = model["user.weight"][who], model["item.weight"][good] - model["item.weight"][bad]
        headed = user @ model["head.weight"]
        margin = (headed * apart).sum(axis=1) + model["item.bias"][good] - model["item.bias"][bad]
        push = (-1 / (1 + np.exp(margin))).astype(np.float32)[:, None] / BATCH * USERS
        found = {name: DECAY * w for name, w in model.items()}
        np.add.at(found["user.weight"], who, push * (apart @ model["head.weight"].T))
        np.add.at(found["item.weight"], good, push * headed)
        np.add.at(found["item.weight"], bad, -push * headed)
        found["head.weight"] = user.T @ (push * apart) / 64
        np.add.at(found["item.bias"], good, push[:, 0])
        np.add.at(found["item.bias"], bad, -push[:, 0])
        for name, gradient in found.items():
            first[name] += 0.1 * (gradient - first[name])
            second[name] += 0.001 * (gradient**2 - second[name])
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            model[name] -= (RATE * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)
    return model


def main() -> None:
    """Train, score, compress with the score as the judge, score again."""
    if sys.argv[1:2] == ["score"]:
        print(f"{ndcg(load_file(sys.argv[2])):.6f}")
        return
    with tempfile.TemporaryDirectory() as place:
        model, small, restored = (Path(place, f"{name}.safetensors") for name in ("model", "small.mc", "restored"))
        save_file(train(), model)
        before = ndcg(load_file(model))
        chance = SHOWN / ITEMS
        print(
            f"Before: {model.stat().st_size} bytes, NDCG@{SHOWN} {before:.4f} (by chance about {chance:.2f}).",
            flush=True,
        )
        judge = shlex.join([sys.executable, __file__, "score", "{}"])
        run("auto", str(model), "-o", str(small), "--eval", judge, "--max-drop", "1%", "--max-evals", "14")
        run("unpack", str(small), "--dequantize", "-o", str(restored), "-q")
        after, size = ndcg(load_file(restored)), small.stat().st_size
        print(
            f"After: {size} bytes, {model.stat().st_size / size:.1f} times smaller; NDCG@{SHOWN} {after:.4f}, "
            f"a drop of {(before - after) / before:.2%}."
        )


def run(*arguments: str) -> None:
    """Run mc; what it says on stderr is shown."""
    subprocess.run([sys.executable, "-m", "mc_cli", *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
