"""The search by scores, and how far a score may fall."""

from __future__ import annotations

from pathlib import Path

import pytest

from mc.automatic import AutoReport, auto
from mc.plan.search import Limit, Tried, noisy
from planned import MATRICES, layered, tensors


def test_scores_are_searched_with_few_evaluations(tmp_path: Path) -> None:
    data = layered(9)
    (tmp_path / "m.safetensors").write_bytes(data)
    before = tensors(data)
    seen: list[tuple[int, float]] = []

    def score(path: Path, content: str, size: int) -> float:
        after = tensors(path.read_bytes())
        assert set(after) == set(before) and len(content) == 64
        away = sum(float(((before[name] - after[name]) ** 2).sum()) for name in MATRICES)
        found = 1 - away / sum(float((before[name] ** 2).sum()) for name in MATRICES)
        seen.append((size, found))
        return found

    def search(drop: float, most: int) -> AutoReport:
        seen.clear()
        return auto(
            tmp_path / "m.safetensors", tmp_path / "out.mc.safetensors", score=score, limit=Limit(drop, True),
            max_evals=most, threads=1,
        )  # fmt: skip

    report = search(0.02, 20)
    assert len(seen) <= 20 and seen[0] == (len(data), 1.0)
    passed = [size for size, found in seen if found >= 0.98]
    size = (tmp_path / "out.mc.safetensors").stat().st_size
    after = tensors((tmp_path / "out.mc.safetensors").read_bytes())
    away = sum(float(((before[name] - after[name]) ** 2).sum()) for name in MATRICES)
    assert away <= 0.02 * sum(float((before[name] ** 2).sum()) for name in MATRICES)
    assert abs(size - min(passed)) < 600  # the scores are in its plan, and weren't while it was tried
    fell_short = max(size for size, found in seen if found < 0.98)
    assert min(passed) < 1.08 * fell_short  # close to where it fails
    assert [row[1] for row in report.plan["scores"]] == pytest.approx([found for _, found in seen], rel=1e-5)
    search(0.0, 6)  # nothing may be lost, and only six runs are allowed
    assert len(seen) <= 6 and (tmp_path / "out.mc.safetensors").stat().st_size < len(data)


@pytest.mark.parametrize(
    ("limit", "score", "original", "passes"),
    [
        (Limit(0.02, True), 0.98, 1.0, True), (Limit(0.02, True), 0.9799, 1.0, False),
        (Limit(0.5, False), 99.5, 100.0, True), (Limit(0.02, True, True), 2.04, 2.0, True),
        (Limit(0.02, True, True), 2.05, 2.0, False), (Limit(0.1, True), -11.0, -10.0, True),
        (Limit(0.0, True), 1.5, 1.0, True), (Limit(0.5, False), float("nan"), 1.0, False),
    ],
)  # fmt: skip
def test_limits_of_scores(limit: Limit, score: float, original: float, passes: bool) -> None:
    assert limit.passes(score, original) is passes


def test_scores_are_noisy_where_a_smaller_file_scored_better() -> None:
    rising = [Tried(100, 0.9, True), Tried(300, 0.97, True), Tried(200, 0.95, False)]
    up, down = Limit(0.1, True), Limit(0.1, True, lower_is_better=True)
    assert not noisy(rising, up) and noisy(rising, down)
    assert noisy([*rising, Tried(50, 0.96, True)], up) and not noisy([], up)
