"""An analysis as one page of HTML that needs nothing else: style, script and figures are in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DIGITS = 5  # that a figure on the page has
CURVES = 4  # fitted models of a tensor whose densities are drawn


def page(checkpoints: Sequence[dict[str, Any]]) -> str:
    """The page for analyses as --json prints them."""
    shown = [_slim(one) for one in checkpoints]
    text = json.dumps(_rounded(shown), ensure_ascii=False, separators=(",", ":"))
    # Names come from files: nothing in them may end the script element, nor open a comment in it.
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    frame = (HERE / "page.html").read_text("utf-8")
    parts = {"/*STYLE*/": "page.css", "/*PLAN*/": "plan.js", "/*SCRIPT*/": "page.js"}
    for mark, name in parts.items():
        frame = frame.replace(mark, (HERE / name).read_text("utf-8"), 1)
    return frame.replace("/*DATA*/", text, 1)


def _slim(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Without the densities that aren't drawn."""
    tensors = []
    for tensor in checkpoint["tensors"]:
        fits = [fit if number < CURVES else {**fit, "density": None} for number, fit in enumerate(tensor["fits"] or ())]
        tensors.append({**tensor, "fits": fits})
    return {**checkpoint, "tensors": tensors}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value
