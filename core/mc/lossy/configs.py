"""The JSON files beside the shards: `quantization_config` for readers of compressed-tensors, and the index."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mc.errors import DamagedError
from mc.recipe import Quantized
from mc.schemes import Cast, Channel, Fp8, Int, Mantissa, Scheme
from mc.strict_json import describe

KEY = "quantization_config"
WEIGHT = ".weight"
STATED = ("torch_dtype", "dtype")  # under which transformers states what floats are: before its version 5, and since
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
# Heads that transformers ties to the embeddings: layers without a tensor of their own, that must not be looked for.
TIED = r"re:.*(lm_head|lm_head\.decoder|predictions\.decoder|vocab_projector)$"


def with_quantization(config: bytes, tensors: Mapping[str, Quantized], kept: Sequence[str], where: str) -> bytes:
    """config.json with what compressed-tensors needs to know, or as it was if nothing is stored as it stores it.
    `kept`: names of tensors that are not quantized. DamagedError if the file is no JSON object."""
    groups: dict[Scheme, list[str]] = {}
    for name, about in tensors.items():
        if isinstance(about.scheme, Int | Fp8 | Channel) and name.endswith(WEIGHT):
            groups.setdefault(about.scheme, []).append(name.removesuffix(WEIGHT))
    if not groups:
        return without_quantization(config, where)
    floats = [name for name, about in tensors.items() if isinstance(about.scheme, Cast | Mantissa)]
    modules = {name.removesuffix(WEIGHT) for name in (*kept, *floats) if name.endswith(WEIGHT)}
    heads = any(re.match(TIED[3:], name) for names in groups.values() for name in names)
    ties = [] if heads else [TIED]
    kinds = {_format(scheme) for scheme in groups}
    listed = {
        f"group_{number}": _group(scheme, ["Linear"] if len(groups) == 1 else [_one_of(names)])
        for number, (scheme, names) in enumerate(groups.items())
    }
    added = {
        "quant_method": "compressed-tensors",
        "format": kinds.pop() if len(kinds) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "ignore": [*sorted(modules), *ties],
        "config_groups": listed,
    }
    return _written({**_object(config, where), KEY: added})


def without_quantization(config: bytes, where: str, dtype: str | None = None) -> bytes:
    """config.json without it and, where all floats were given one `dtype` (as safetensors writes it), with that as what
    it says of them; the same bytes if there is nothing to change."""
    found = _object(config, where)
    changed = {key: value for key, value in found.items() if key != KEY}
    if dtype is not None:
        inner = {key: _stating(value, dtype) for key, value in changed.items() if isinstance(value, dict)}
        changed = _stating({**changed, **inner}, dtype)
    return config if changed == found else _written(changed)


def _stating(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A model's config, or that of a model within it, with another dtype of floats where it states one."""
    return {**config, **{key: TORCH[dtype] for key in STATED if config.get(key) in TORCH.values()}}


def index_of(index: bytes, shards: Mapping[str, Sequence[tuple[str, int]]], where: str) -> bytes:
    """The index for shards that hold these tensors, each with its bytes; what else it says stays."""
    found = _object(index, where)
    metadata = found.get("metadata")
    total = sum(size for tensors in shards.values() for _, size in tensors)
    weight_map = {name: shard for shard, tensors in shards.items() for name, _ in tensors}
    kept = metadata if isinstance(metadata, dict) else {}
    return _written(
        {**found, "metadata": {**kept, "total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    )


def _format(scheme: Scheme) -> str:
    if isinstance(scheme, Int):
        return "pack-quantized"
    return "int-quantized" if isinstance(scheme, Channel) else "float-quantized"


def _group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    inputs: dict[str, Any] | None = None
    if isinstance(scheme, Int):
        strategy = {"strategy": "group", "group_size": scheme.group} if scheme.group else {"strategy": "channel"}
        weights = {"num_bits": scheme.bits, "type": "int", "symmetric": scheme.symmetric, **strategy, "dynamic": False}
    else:
        per = scheme.per if isinstance(scheme, Fp8) else "channel"
        kind = "int" if isinstance(scheme, Channel) else "float"
        weights = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": per, "dynamic": False}
        inputs = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "token", "dynamic": True}
    return {
        "format": _format(scheme), "targets": targets, "weights": weights, "input_activations": inputs,
        "output_activations": None,
    }  # fmt: skip


def _one_of(names: Sequence[str]) -> str:
    return f"re:^({'|'.join(re.escape(name) for name in sorted(names))})$"


def refuse_broken(config: bytes, where: str) -> None:
    """DamagedError for a file that can't be changed as the functions above do."""
    _object(config, where)


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        _written(found)  # which half of a surrogate pair, as an escape may stand for, can't be
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where} is no JSON: {error}. Fetch it again.") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{where} holds {describe(found)}, where a JSON object was expected. Fetch it again.")
    return found


def _written(found: object) -> bytes:
    return (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()
