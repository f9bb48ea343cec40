"""What readers of compressed-tensors load: matrices of linear layers, in whole groups. Tried with the package, and with
transformers, which take a model's embeddings and convolutions for floats whatever a config says (`make interop`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mc.checkpoint import Tensor
from mc.errors import UsageError, quote
from mc.lossy.requests import Request, assign, matches
from mc.lossy.tied import groups, speaker
from mc.schemes import FLOATS

WEIGHT = ".weight"
# Names of embeddings in the models of transformers: BERT and ViT, LLaMA, GPT-2, T5. One too many costs bytes alone.
EMBEDDING = re.compile(r"emb|(^|\.)(wte|wpe|shared|relative_attention_bias)\.", re.IGNORECASE)


def is_linear(name: str, dimensions: int) -> bool:
    """Whether a tensor, going by its name and number of dimensions, is the weight of a linear layer."""
    return dimensions == 2 and name.endswith(WEIGHT) and EMBEDDING.search(name) is None


def assign_standard(
    tensors: Sequence[Tensor], default: Request, sets: Sequence[tuple[str, Request]], keeps: Sequence[str]
) -> tuple[dict[str, Request], set[str]]:
    """As `assign`; but of a standard request, what readers load as floats stays unless one of `sets` names it.
    UsageError for columns that its groups don't divide, and for fp8 of a format that readers don't have."""
    wanted, used = assign(tensors, default, sets, keeps)
    for tensor in tensors:
        request = wanted.get(tensor.name)
        if request is None or not request.standard:
            continue
        if not is_linear(tensor.name, len(tensor.shape)) and not any(matches(one, tensor.name) for one, _ in sets):
            del wanted[tensor.name]
            continue
        cols = tensor.shape[-1] if tensor.shape else 1
        if request.kind == "int" and 0 < request.group < cols and cols % request.group:
            raise UsageError(
                f"The tensor {quote(tensor.name)} has {cols} columns, which groups of {request.group} don't divide, as "
                f"readers of compressed-tensors need. Keep it, set another group for it, or leave out --format."
            )
        if request.kind == "fp8" and request.to != "F8_E4M3":
            raise UsageError("compressed-tensors has no fp8 but e4m3. Leave out format=e5m2, or --format.")
    return wanted, used


def refuse_unnamed(
    twins: Mapping[str, str], said: Mapping[str, Request], keeps: Sequence[str], dimensions: Mapping[str, int]
) -> None:
    """UsageError where a standard request that is `said` of one tensor would also be for another, that is tied to it,
    and that readers load as floats alone: of a head, say, for the embeddings. Where one is kept, all are."""
    for names in groups(twins):
        heard = speaker(names, said)
        kept = any(matches(pattern, name) for pattern in keeps for name in names)
        if heard is None or kept or not said[heard].standard:
            continue
        for name in names:
            if name not in said and not is_linear(name, dimensions[name]):
                raise UsageError(
                    f"{quote(heard)} is tied to {quote(name)}, which readers of compressed-tensors load as floats "
                    f"alone. Leave {quote(heard)} as it is, or name both with --set."
                )


def spared(
    tensors: Iterable[Tensor], wanted: dict[str, Request], default: Request, keeps: Sequence[str]
) -> tuple[str, ...]:
    """Tensors that stay for their readers' sake alone: nobody asked to keep them."""
    if not default.standard:
        return ()
    return tuple(
        one.name
        for one in tensors
        if len(one.shape) > 1
        and one.dtype in FLOATS
        and one.name not in wanted
        and not one.name.endswith("bias")
        and not any(matches(pattern, one.name) for pattern in keeps)
    )
