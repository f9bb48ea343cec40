"""Explanations of plans: what came second, what bytes are worth, and nothing that they don't know."""

from __future__ import annotations

from typing import Any

import pytest

from mc.plan.explain import sentences, spoken
from mc.plan.goals import Goal
from planned import layered, run


def test_explanations_pass_over_what_they_don_t_know() -> None:
    for plan in ({}, {"tensors": 3}, {"tensors": {"a": 1, "b": {"as": 3, "next": [], "bytes": "x"}}, "alpha": "x",
                      "nearby": [1], "scores": [[1], "x", None]}):  # fmt: skip
        assert all(isinstance(line, str) for line in sentences(plan))


def test_explanations_say_what_came_second_what_bytes_are_worth_and_how_far_the_bound_is() -> None:
    report, _ = run(layered(), Goal("ratio", 8))
    entries = report.plan["tensors"]
    stepped = [one for one in entries.values() if "step" in one]
    assert stepped and all({"bits", "bound", "per_kB", "next"} <= set(one) for one in stepped)
    # What a byte is worth is the same everywhere, up to how coarse the menus are, and that of the whole.
    whole = 8000 * report.plan["alpha"] / report.plan["weights"]
    assert all(whole / 2 < one["per_kB"] < 2 * whole for one in stepped)
    small, here, large = (size for size, _ in report.plan["nearby"])
    assert small == pytest.approx(0.9 * here, rel=0.02) and large == pytest.approx(1.1 * here, rel=0.02)
    said = " ".join(sentences(report.plan))
    for words in ("Second came", "more would save", "above what no code beats", "the runner-up would cost", "A tenth"):
        assert words in said


def test_explanations_of_what_is_pruned_first_are_readable() -> None:
    kinds = "magnitude,sparsity=0.95+grid", "low-rank,rank=25+grid", "trellis,effort=8", "low-rank", "a+b,sparsity=x"
    assert [spoken(kind) for kind in (*kinds, None)] == [
        "grid behind 95 % zeros (magnitude)", "grid of two thin matrices, rank 25", "trellis of 8 states", "low-rank",
        "a+b,sparsity=x", "None",
    ]  # fmt: skip
    assert spoken("magnitude,sparsity=x+grid") == "magnitude,sparsity=x+grid"
    at_least: dict[str, Any] = {
        "tensors": {"a": {"as": "grid", "bytes": 9, "loss": 0.1}},
        "nearby": [[99, 1], [100, 1], [110, 0.5]],
    }
    thin: dict[str, Any] = {"as": kinds[1], "bytes": 9, "loss": 0.1, "bits": 0.5, "bound": 2.75, "per_kB": 1.0}
    told = " ".join(sentences({"alpha": 0.1, "tensors": {"thin": thin, "b": {**thin, "per_kB": 3.0}}}))
    assert "would need 2.75" in told and "above what no code" not in told and "a thousand bytes 1 to 3" in told
    assert "It could hardly be smaller." in " ".join(sentences(at_least))


@pytest.mark.parametrize(
    ("smaller", "larger", "said"),
    [
        ([90, 0.2], [110, 0.05], "A tenth smaller (90 B) it would lose 0.2 instead of 0.1; a tenth larger (110 B), "),
        ([20, 0.7], [94, 0.05], ""),
        ([99, 0.1], [112, 0.05], "It could hardly be smaller. A tenth larger (112 B) it would lose 0.05."),
        ([99, 0.1], [101, 0.1], "It could hardly be smaller."),
        ([88, 0.2], [88, 0.2], "A tenth smaller (88 B) it would lose 0.2 instead of 0.1."),
        ([30, 0.9], [109, 0.09], "A tenth larger (109 B) it would lose 0.09 instead of 0.1."),
    ],
)  # fmt: skip
def test_sizes_that_were_expected_elsewhere_are_not_called_a_tenth_off(
    smaller: list[float], larger: list[float], said: str
) -> None:
    entry = {"as": "grid", "step": 1.0, "bytes": 90, "loss": 0.1}
    told = " ".join(sentences({"tensors": {"a": entry}, "nearby": [smaller, [100, 0.1], larger]}))
    assert said in told and told.lower().count("a tenth") == said.lower().count("a tenth")


def test_a_choice_that_would_cost_far_less_is_not_called_a_close_one() -> None:
    told = [
        {"as": "grid", "next": {"as": "mantissa", "bytes": 1, "loss": 0.1, "cost": cost}} for cost in (-0.5, 0.005, 0.3)
    ]
    assert "For 1 of 3 tensors the runner-up" in " ".join(sentences({"tensors": dict(zip("abc", told, strict=True))}))
