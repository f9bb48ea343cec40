"""Speech: Silero's detector of voices (MIT, from PyPI), smaller, and whether it still hears the same.

    python examples/speech.py                 # fetch the package, compress, restore, compare
    python examples/speech.py score FILE OF   # what mc runs: agreement of FILE with OF, as the last line

The network runs here in numpy: a short-time Fourier transform as a convolution, four convolutions, an LSTM, one output
for every 32 ms. It hears a minute of sound that is made here: vowels (pulses through resonances), noise, tones and
silence. The score is 1 less the mean difference between its probabilities of speech and the original's.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

Array = np.ndarray[Any, Any]
PACKAGE, INSIDE = "silero-vad==6.2.3", "silero_vad/data/silero_vad_16k.safetensors"
RATE, WINDOW, CONTEXT = 16000, 512, 64
SECONDS = 60


def sound() -> Array:
    """A minute at 16 kHz, f32: a second each of something else."""
    random = np.random.default_rng(0)
    parts = [np.zeros(0)]
    t = np.arange(RATE) / RATE
    for second in range(SECONDS):
        kind = ("vowels", "noise", "vowels", "silence", "tone", "vowels")[second % 6]
        if kind == "vowels":
            made = np.concatenate([vowel(random, RATE // 4) for _ in range(4)])
        elif kind == "noise":
            made = random.normal(0, 0.05, RATE)
        elif kind == "tone":
            made = 0.2 * np.sin(2 * np.pi * random.uniform(200, 2000) * t)
        else:
            made = np.zeros(RATE)
        parts.append(made + random.normal(0, 0.002, RATE))
    return np.concatenate(parts).astype(np.float32)


def vowel(random: np.random.Generator, count: int) -> Array:
    """A voice's pulses, whose pitch falls, through three resonances (a vowel's formants)."""
    pitch = random.uniform(90, 220) * np.linspace(1.1, 0.9, count)
    pulses = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0.0)
    spectrum = np.fft.rfft(pulses, 2 * count)
    hertz = np.fft.rfftfreq(2 * count, 1 / RATE)
    for middle, wide in zip(random.uniform((300, 900, 2200), (800, 2000, 3000)), (80, 120, 160), strict=True):
        spectrum = spectrum * (0.05 + 1 / (1 + ((hertz - middle) / wide) ** 2))
    made = np.fft.irfft(spectrum)[:count] * np.hanning(count) ** 0.3
    return np.asarray(0.3 * made / np.abs(made).max())


def convolved(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Of x [in, n] by w [out, in, k]."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (pad, pad))), w.shape[2], axis=1)
    return np.asarray(np.einsum("ink,oik->on", windows[:, ::stride], w, optimize=True))


def probabilities(model: dict[str, Array], wave: Array) -> Array:
    """Of speech, for every window of 32 ms."""
    wave = np.pad(wave, (CONTEXT, -len(wave) % WINDOW))
    h, c = np.zeros(128, np.float32), np.zeros(128, np.float32)
    found = []
    for at in range(CONTEXT, len(wave), WINDOW):
        x = np.pad(wave[at - CONTEXT : at + WINDOW], (0, 64), "reflect")[None]
        x = convolved(x, model["stft_conv.weight"], 128)
        x = np.sqrt(x[:129] ** 2 + x[129:] ** 2)
        for number, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
            x = convolved(x, model[f"conv{number}.weight"], stride, 1) + model[f"conv{number}.bias"][:, None]
            x = np.maximum(x, 0)
        gates = model["lstm_cell.weight_ih"] @ x[:, -1] + model["lstm_cell.bias_ih"]
        gates = gates + model["lstm_cell.weight_hh"] @ h + model["lstm_cell.bias_hh"]
        let_in, forget, new, let_out = np.split(gates, 4)
        c = c / (1 + np.exp(-forget)) + np.tanh(new) / (1 + np.exp(-let_in))
        h = np.tanh(c) / (1 + np.exp(-let_out))
        logit = model["final_conv.weight"][0, :, 0] @ np.maximum(h, 0) + model["final_conv.bias"][0]
        found.append(1 / (1 + np.exp(-logit)))
    return np.array(found)


def agreement(path: Path, of: Path) -> float:
    """1 less the mean difference of probabilities."""
    wave = sound()
    ours, theirs = (probabilities(load_file(one), wave) for one in (path, of))
    return float(1 - np.abs(ours - theirs).mean())


def main() -> None:
    """Fetch, compress with the agreement as the judge, restore, compare."""
    if sys.argv[1:2] == ["score"]:
        print(f"{agreement(Path(sys.argv[2]), Path(sys.argv[3])):.6f}")
        return
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, PACKAGE]
        subprocess.run(pip, check=True)
        model, small, restored = (Path(place, f"{name}.safetensors") for name in ("vad", "vad.mc", "restored"))
        with zipfile.ZipFile(next(Path(place).glob("*.whl"))) as wheel:
            model.write_bytes(wheel.read(INSIDE))
        before = probabilities(load_file(model), sound())
        print(
            f"Before: {model.stat().st_size} bytes; speech is heard in {(before > 0.5).mean():.0%} of the windows.",
            flush=True,
        )
        judge = shlex.join([sys.executable, __file__, "score", "{}", str(model)])
        mc("auto", str(model), "-o", str(small), "--eval", judge, "--max-drop", "1%", "--max-evals", "14")
        mc("unpack", str(small), "--dequantize", "-o", str(restored), "-q")
        after, size = probabilities(load_file(restored), sound()), small.stat().st_size
        same = ((before > 0.5) == (after > 0.5)).mean()
        print(
            f"After: {size} bytes, {model.stat().st_size / size:.1f} times smaller; probabilities differ by "
            f"{np.abs(before - after).mean():.4f}, {same:.1%} of the windows are heard alike."
        )


def mc(*arguments: str) -> None:
    """Run mc; what it says on stderr is shown."""
    subprocess.run([sys.executable, "-m", "mc_cli", *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
