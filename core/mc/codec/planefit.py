"""Tables for words in planes: which planes they make smaller, from counts of all words."""

from dataclasses import replace

import numpy as np

from mc.codec import entropy, floats, integers
from mc.codec.fit import Each, Read
from mc.codec.integers import PlaneCode
from mc.codec.tables import Tables
from mc.codec.typing import Counts

_NO_TABLES = Tables(np.zeros((0, 256), np.uint8), np.zeros(0, np.int64))


def blank(form: int, width: int, coder: str) -> PlaneCode:
    """A code for words of `width` bytes without tables yet."""
    raw = np.zeros(integers.plane_count(form, width), np.uint8)
    return PlaneCode(form, width, 0, np.empty(0, np.uint8), np.empty(0, np.uint8), raw, coder, _NO_TABLES)


def plan_planes(code: PlaneCode, counts: Counts) -> tuple[PlaneCode, entropy.Plan]:
    """Tables for the planes that they make smaller; the others raw. counts: [planes, 256], of all planes."""
    if code.form in (integers.BYTE_PLANES, integers.NIBBLE_PLANES):
        unit = 8 if code.form == integers.BYTE_PLANES else 4
        raw = np.zeros(len(counts), np.uint8)
        for k in range(len(counts)):
            raw[k] = entropy.plan(code.coder, counts[k : k + 1]).bits >= unit * counts[k].sum()
        if code.form == integers.NIBBLE_PLANES:
            raw[:] = 0  # a raw nibble would take a byte
        counts = counts[raw == 0]
    else:
        raw = code.raw
    plan = entropy.plan(code.coder, counts)
    return replace(code, raw=raw, tables=plan.tables), plan


def best_plan(code: PlaneCode, counts: Counts, words: int) -> tuple[PlaneCode, entropy.Plan]:
    """The same for so many words; with ANS where codes of whole bits lose much, as those of few symbols do."""
    first = plan_planes(code, counts)
    if code.coder == entropy.ANS:
        return first
    second = plan_planes(replace(code, coder=entropy.ANS), counts)
    saves = cost(*second, words) * 100 < cost(*first, words) * (100 - entropy.ANS_MUST_SAVE)
    return second if saves else first


def cost(code: PlaneCode, plan: entropy.Plan, words: int) -> float:
    """Bytes of words coded so, head and tables included."""
    return plan.coded_bits / 8 + int(code.raw.sum()) * words + len(integers.write_head(code, entropy.described(plan)))


def by_rows(read: Read, nbytes: int, cols: int, coder: str, each: Each) -> PlaneCode:
    """A code for bytes whose rows are sorted into classes by mean magnitude, without tables yet."""

    def means(span: tuple[int, int]) -> Counts:
        rows = np.abs(read(*span).view(np.int8).astype(np.int16)).reshape(-1, cols)
        sums: Counts = rows.sum(axis=1, dtype=np.int64)
        return sums

    classes = integers.row_classes(np.concatenate(list(each(means, floats.spans(nbytes, cols)))))
    return replace(blank(integers.ROW_CLASSES, 1, coder), cols=cols, classes=classes)


def count(code: PlaneCode, parts: list[tuple[int, int]], read: Read, each: Each) -> Counts:
    """How often each byte stands in each plane, [planes, 256], over parts from first to last word (exclusive)."""

    def count_in(part: tuple[int, int]) -> Counts:
        raw = read(part[0] * code.width, part[1] * code.width)
        return integers.counts_of(integers.planes_of(code, raw, part[0] // max(code.cols, 1)))

    counts: Counts = np.sum(list(each(count_in, parts)), axis=0)
    return counts
