"""mc: checkpoints of neural networks, packed without loss, verified, restored byte for byte; or quantized first.

    data = mc.compress(safetensors_bytes)          # and mc.decompress(data)
    mc.pack("model.safetensors", "model.mc.safetensors")
    with mc.open("model.mc.safetensors") as checkpoint:
        rows = checkpoint.rows("embeddings.weight", 0, 100)

Importing this is cheap; what a call needs is imported when it is first made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mc.analysis.against import compare
    from mc.analysis.examine import analyze
    from mc.api import Level, compress, decompress, pack, unpack, verify
    from mc.automatic import auto
    from mc.loader import Checkpoint
    from mc.lossy.files import open_checkpoint as open
    from mc.progress import Progress
    from mc.pruning import prune
    from mc.restoring import dequantize, measure
    from mc.simplifying import quantize
    from mc.warming import warm

__version__ = "0.1.0"
__all__ = [
    "Checkpoint", "Level", "Progress", "analyze", "auto", "compare", "compress", "decompress", "dequantize", "measure",
    "open", "pack", "prune", "quantize", "unpack", "verify", "warm",
]  # fmt: skip

_HOMES = {
    "Checkpoint": ("mc.loader", "Checkpoint"),
    "Progress": ("mc.progress", "Progress"),
    "analyze": ("mc.analysis.examine", "analyze"),
    "auto": ("mc.automatic", "auto"),
    "compare": ("mc.analysis.against", "compare"),
    "dequantize": ("mc.restoring", "dequantize"),
    "measure": ("mc.restoring", "measure"),
    "open": ("mc.lossy.files", "open_checkpoint"),
    "prune": ("mc.pruning", "prune"),
    "quantize": ("mc.simplifying", "quantize"),
    "warm": ("mc.warming", "warm"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'mc' has no attribute {name!r}")
    module, attribute = _HOMES.get(name, ("mc.api", name))
    return getattr(import_module(module), attribute)
