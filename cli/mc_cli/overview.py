"""An analysis at a terminal, drawn to its width; elsewhere as TSV with every name whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from mc_cli import charts, show
from mc_cli.charts import figure

if TYPE_CHECKING:
    from mc.analysis.report import Analysis, GroupAnalysis, TensorAnalysis

COLUMNS = (
    "file", "tensor", "dtype", "shape", "parameters", "bytes", "min", "max", "mean", "std", "skewness",
    "excess_kurtosis", "zeros", "nan", "infinite", "subnormals", "beyond_6_sigma", "peak_to_rms", "row_spread",
    "column_spread", "sign", "exponent", "mantissa", "joint", "given_scales", "distinct", "fit", "fit_ks",
    "fit_lost_bits", "db20", "db30", "db40", "stable_rank", "effective_rank", "fast", "default", "best",
    "duplicate_of", "advice",
)  # fmt: skip
LARGE = 3  # tensors that are shown large, at most
NARROWEST = 12  # characters of a name


def overview(found: Sequence[Analysis], manner: show.Manner, *, one_by_one: bool) -> None:
    """Print the table, the totals and the advice; `one_by_one`, few tensors large."""
    stream = manner.stream
    if stream is None or not stream.isatty():
        show.table(COLUMNS, (row for one in found for tensor in one.tensors for row in [full(tensor)]), manner)
        return
    import shutil

    width = shutil.get_terminal_size().columns
    for one in found:
        if len(found) > 1:
            print(show.printable(one.path), file=stream)
        if one_by_one and len(one.tensors) <= LARGE:
            for tensor in one.tensors:
                print("\n".join(line for long in large(tensor, width) for line in wrapped(long, width)), file=stream)
            continue
        draw(one, width, stream)
        for line in advice(one, manner.verbose):
            print("\n".join(wrapped(line, width)), file=stream)


def wrapped(line: str, width: int) -> list[str]:
    """A line as several that fit, broken between words only; what follows the first is indented as its text."""
    import textwrap

    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip(" *")))
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True, replace_whitespace=False,
    )  # fmt: skip


def full(tensor: TensorAnalysis) -> tuple[str, ...]:
    """One row of TSV, with the names of COLUMNS."""
    m, b, built = tensor.moments, tensor.bits, tensor.structure
    fit = tensor.fits[0] if tensor.fits else None
    bounds = tensor.bounds.empirical if tensor.bounds else {}
    sizes = tensor.predicted_bytes or {}
    cells: list[object] = [
        tensor.file, tensor.name, tensor.dtype, shaped(tensor), tensor.parameters, tensor.bytes, m.min, m.max, m.mean,
        m.std, m.skewness, m.excess_kurtosis, m.zeros, m.nan, m.infinite, m.subnormals, m.beyond_6_sigma,
        m.peak_to_rms, m.row_spread, m.column_spread, b.sign, b.exponent, b.mantissa, b.joint, b.given_scales,
        b.distinct, fit.model if fit else None, fit.ks if fit else None, fit.lost_bits if fit else None,
        *(bounds.get(db) for db in ("20", "30", "40")), built.stable_rank if built else None,
        built.effective_rank if built else None, *(sizes.get(level) for level in ("fast", "default", "best")),
        b.duplicate_of, " ".join(tensor.advice),
    ]  # fmt: skip
    return tuple(f"{cell:.6g}" if isinstance(cell, float) else "-" if cell is None else str(cell) for cell in cells)


def shaped(tensor: TensorAnalysis) -> str:
    """A shape in few characters."""
    return "x".join(map(str, tensor.shape)) or "scalar"


HEADINGS = ("dtype", "shape", "histogram", "std", "bits", "packed", "30 dB", "looks like")
OPTIONAL = ("looks like", "30 dB", "packed", "std", "histogram", "shape")  # what goes first where there is no room


def draw(one: Analysis, width: int, stream: TextIO) -> None:
    """The table of one checkpoint: a line a tensor, then the layers, then the whole."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = [(show.printable(tensor.name), brief(tensor)) for tensor in one.tensors]
    sums = [(show.printable(group.name), summed(group)) for group in (*one.groups, one.whole)]
    if len(one.groups) < 2 or len(one.tensors) == len(one.groups):
        sums = sums[-1:]
    widths = {name: max(len(name), *(len(cells[name]) for _, cells in [*lines, *sums])) for name in HEADINGS}
    wanted = list(HEADINGS)
    longest = max((len(name) for name, _ in [*lines, *sums]), default=0)
    for name in OPTIONAL:
        if sum(widths[column] + 2 for column in wanted) + min(longest, 2 * NARROWEST) <= width:
            break
        wanted.remove(name)
    room = max(NARROWEST, width - sum(widths[column] + 2 for column in wanted))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("tensor", no_wrap=True)
    for column in wanted:
        right = column in ("std", "bits", "packed", "30 dB")
        style = "cyan" if column == "histogram" else ""
        table.add_column(column, no_wrap=True, justify="right" if right else "left", style=style)
    for part, style in ((lines, ""), (sums, "bold")):
        for name, cells in part:
            table.add_row(Text(charts.shortened(name, room)), *(cells[column] for column in wanted), style=style)
        table.add_section()
    Console(file=stream, width=width, highlight=False).print(table)


def brief(tensor: TensorAnalysis) -> dict[str, str]:
    """The cells of a tensor's line."""
    m, b = tensor.moments, tensor.bits
    packed = "-"
    if tensor.predicted_bytes is not None and tensor.bytes:
        packed = f"{tensor.predicted_bytes['default'] / tensor.bytes:.3f}"
    like = tensor.fits[0].model if tensor.fits else "constant" if b.constant else "-"
    return {
        "dtype": tensor.dtype,
        "shape": shaped(tensor),
        "histogram": charts.spark(m.histogram.counts, 12) if m.histogram else "-",
        "std": figure(m.std),
        "bits": f"{b.joint:.2f}" if b.joint is not None else "-",
        "packed": "same" if b.duplicate_of is not None else packed,
        "30 dB": f"{tensor.bounds.empirical['30']:.2f}" if tensor.bounds else "-",
        "looks like": like,
    }


def summed(group: GroupAnalysis) -> dict[str, str]:
    """The cells of a layer's or the whole's line."""
    predicted = group.predicted_bytes
    return {
        "dtype": "",
        "shape": f"{group.tensors} tensors",
        "histogram": charts.spark(group.moments.histogram.counts, 12) if group.moments.histogram else "-",
        "std": figure(group.moments.std),
        "bits": f"{group.joint:.2f}" if group.joint is not None else "-",
        "packed": f"{predicted['default'] / group.bytes:.3f}" if predicted and group.bytes else "-",
        "30 dB": f"{group.bounds.empirical['30']:.2f}" if group.bounds else "-",
        "looks like": "",
    }


def advice(one: Analysis, every: bool) -> Iterator[str]:
    """What to do: sentences that begin alike together, or with `every` all of them by tensor."""
    if every:
        for tensor in one.tensors:
            for sentence in tensor.advice:
                yield show.printable(f"{tensor.name}: {sentence}")
        return
    alike: dict[str, list[tuple[str, str, int]]] = {}
    for tensor in one.tensors:
        for sentence in tensor.advice:
            head = sentence.split(":")[0].rstrip("0123456789.% ")
            head = " ".join(head.split()[:2])
            alike.setdefault(head, []).append((tensor.name, sentence, tensor.bytes))
    for said in sorted(alike.values(), key=lambda said: -sum(size for _, _, size in said)):
        largest = sorted(said, key=lambda one: -one[2])[0]
        others = f" ({len(said) - 1} more like it; -v lists them)" if len(said) > 1 else ""
        yield show.printable(f"* {largest[0]}: {largest[1]}{others}")


def large(tensor: TensorAnalysis, width: int) -> list[str]:
    """One tensor on a screen: facts, the histogram with the best model's curve, entropy bars, advice."""
    m, b = tensor.moments, tensor.bits
    lines = [f"{show.printable(tensor.name)}  {tensor.dtype} {shaped(tensor)}  {show.amount(tensor.bytes)}", ""]
    shown = m.histogram
    if shown is not None:
        room = min(width - 2, 96)
        fit = tensor.fits[0] if tensor.fits else None
        column = (shown.high - shown.low) / len(shown.counts)
        curve = [y * column * m.count for y in fit.density] if fit and fit.density else None
        lines += ["  " + line for line in charts.plot(shown.counts, curve, room, 10)]
        ends = figure(shown.low), figure(shown.high)
        lines.append("  " + ends[0] + ends[1].rjust(room - len(ends[0])))
        if fit:
            parameters = ", ".join(f"{name} {value:.4g}" for name, value in fit.parameters.items())
            lines += ["", f"  • {fit.model}: {parameters}; KS {fit.ks:.4f}, loses {fit.lost_bits:.3f} bits a weight"]
            lines += [f"    {one.model}: KS {one.ks:.4f}, loses {one.lost_bits:.3f}" for one in (tensor.fits or ())[1:]]
    facts = (
        f"mean {figure(m.mean)}, std {figure(m.std)}, skewness {figure(m.skewness)}, excess kurtosis "
        f"{figure(m.excess_kurtosis)}, min {figure(m.min)}, max {figure(m.max)}",
        f"zeros {m.zeros}, NaN {m.nan}, infinite {m.infinite}, subnormal {m.subnormals}, beyond 6 sigma "
        f"{figure(m.beyond_6_sigma)}, largest / RMS {figure(m.peak_to_rms)}",
        f"spread of row scales {figure(m.row_spread)}, of column scales {figure(m.column_spread)} octaves",
    )
    lines += ["", *("  " + fact for fact in facts), ""]
    wide = max(10, min(40, width - 40))
    for name, value in (
        ("sign", b.sign), ("exponent", b.exponent), ("mantissa", b.mantissa), ("joint", b.joint),
        ("given scales", b.given_scales),
    ):  # fmt: skip
        if value is not None:
            lines.append(f"  {name:<13}{charts.bar(value / b.word, wide)} {value:6.3f} of {b.word:.0f} bits")
    if tensor.structure is not None:
        s = tensor.structure
        at_most = "" if s.exact else "at most "
        ranks = f"effective rank {at_most}{figure(s.effective_rank)} of {min(s.rows, s.columns)}"
        lines += ["", f"  stable rank {figure(s.stable_rank)}, {ranks}"]
    if tensor.bounds is not None:
        needs = ", ".join(f"{db} dB {bits:.2f}" for db, bits in tensor.bounds.empirical.items())
        lines.append(f"  bits a weight needs: {needs}")
    if tensor.predicted_bytes is not None:
        sizes = ", ".join(f"{level} {show.amount(size)}" for level, size in tensor.predicted_bytes.items())
        lines.append(f"  packed: {sizes}")
    return [*lines, "", *(show.printable(f"  * {sentence}") for sentence in tensor.advice), ""]
