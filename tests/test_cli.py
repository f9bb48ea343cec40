"""The command as a shell sees it: start-up, what it prints, exit codes."""

from __future__ import annotations

import io
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]
HEAVY = {"numpy", "numba", "rich", "ml_dtypes", "xxhash", "zstandard", "safetensors"}
CLOSING = r"[\d.]+ [kM]?B -> [\d.]+ [kM]?B, ratio \d\.\d{4}, \d+\.\d\d s, "


def test_help_starts_in_a_quarter_second_and_imports_nothing_heavy(mc: Command, tmp_path: Path) -> None:
    def seconds() -> float:
        """Of the processor, so that other work on the machine doesn't count."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        mc("--help", cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.25
    trace = mc("--help", cwd=tmp_path, command=("-X", "importtime", "-m", "mc_cli")).stderr.decode()
    loaded = {line.rsplit("|", 1)[-1].strip() for line in trace.splitlines()}
    assert {"click", "mc"} <= loaded
    assert not [name for name in loaded if name.startswith("mc.")]
    assert not {name.split(".")[0] for name in loaded} & HEAVY


def test_version(mc: Command, tmp_path: Path) -> None:
    for arguments in (("-V",), ("--version",), ("pack", "-V")):
        done = mc(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")
        assert re.fullmatch(rb"mc \d+\.\d+\.\d+\n", done.stdout)


def test_shells_can_complete_commands_and_options(mc: Command, tmp_path: Path) -> None:
    asked = {"_MC_COMPLETE": "bash_complete", "COMP_CWORD": "1", "COMP_WORDS": "mc pa"}
    assert mc(cwd=tmp_path, more_env=asked).stdout == b"plain,pack\n"


def test_json_reports_have_one_entry_a_tensor(mc: Command, place: Path, model: bytes) -> None:
    done = mc("pack", "model.safetensors", "--json", cwd=place)
    assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads(done.stdout)
    assert (report["schema"], report["command"], report["target"]) == (1, "pack", "model.mc.safetensors")
    assert report["bytes"] == len(model)
    assert report["packed_bytes"] == (place / "model.mc.safetensors").stat().st_size
    names = [tensor["name"] for tensor in report["files"][0]["tensors"]]
    assert len(names) == 9 and "Überschrift\tname" in names
    assert all(tensor["coding"] and "why" in tensor for tensor in report["files"][0]["tensors"])
    report = json.loads(mc("unpack", "model.mc.safetensors", "-o", "again", "--json", cwd=place).stdout)
    assert (report["schema"], report["command"], report["bytes"]) == (1, "unpack", len(model))
    report = json.loads(mc("verify", "model.mc.safetensors", "--json", cwd=place).stdout)
    assert (report["schema"], report["intact"], report["findings"]) == (1, True, [])


def test_tables_are_tsv_where_stdout_is_no_terminal(mc: Command, place: Path) -> None:
    done = mc("pack", "-v", "model.safetensors", cwd=place)
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert lines[0] == ["tensor", "dtype", "shape", "bytes", "packed", "ratio", "coding", "why"]
    assert len(lines) == 10 and all(len(line) == 8 for line in lines)
    assert "Überschrift\\tname" in {line[0] for line in lines}
    assert re.fullmatch(CLOSING + r"model\.mc\.safetensors\n", done.stderr.decode())


def test_quiet_says_nothing(mc: Command, place: Path) -> None:
    for arguments in (("pack", "-q", "model.safetensors"), ("verify", "-q", "model.mc.safetensors")):
        done = mc(*arguments, cwd=place)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("pack", "nothing.safetensors", "--json"), 1, "refused"),
        (("pack", "--json"), 2, "usage"),
        (("pack", "--json", "--level", "extreme", "model.safetensors"), 2, "usage"),
        (("unpack", "--json", "cut.mc.safetensors"), 3, "damaged"),
    ],
)
def test_errors_under_json_are_json(
    mc: Command, place: Path, packed: bytes, arguments: tuple[str, ...], code: int, kind: str
) -> None:
    (place / "cut.mc.safetensors").write_bytes(packed[:-1])
    done = mc(*arguments, cwd=place)
    assert (done.returncode, done.stdout) == (code, b"")
    report: dict[str, Any] = json.loads(done.stderr)
    assert report["schema"] == 1
    assert (report["error"]["exit_code"], report["error"]["kind"]) == (code, kind)
    assert report["error"]["message"] and "traceback" not in report["error"]


def test_usage_errors_are_exit_code_2(mc: Command, place: Path) -> None:
    for arguments in ((), ("nonsense",), ("pack",), ("pack", "--rm", "x"), ("pack", "-T", "-1", "x")):
        assert mc(*arguments, cwd=place).returncode == 2, arguments


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "x"])
def test_what_is_no_number_is_no_limit(mc_inside: Command, place: Path, value: str) -> None:
    """NaN is neither below the least nor above the most that is allowed."""
    lines = [
        *(("quantize", "--scheme", "grid", option) for option in ("--bits", "--max-error", "--snr")),
        *(("prune", "--method", "magnitude", option) for option in ("--sparsity", "--max-error")),
        *(("prune", "--method", "low-rank", option) for option in ("--energy", "--share")),
        *(("auto", option) for option in ("--bits", "--max-error", "--alpha", "--target-ratio", "--eval-timeout")),
        ("verify", "--against", "model.safetensors", "--max-error"),
    ]
    for line in lines:
        done = mc_inside(line[0], "model.safetensors", *line[1:], value, cwd=place)
        assert done.returncode == 2 and line[-1].encode() in done.stderr, line


def test_verbose_adds_the_traceback(mc: Command, place: Path) -> None:
    (place / "broken.mc.safetensors").write_bytes(b"")
    done = mc("unpack", "-v", "broken.mc.safetensors", cwd=place)
    assert done.returncode == 3 and b"Traceback" in done.stderr


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("ValueError('boom')", b"ValueError: boom"),
        ("MemoryError()", b"memory"),
        ("RecursionError()", b"fault"),
    ],
)
def test_a_crash_never_looks_like_damage(mc: Command, place: Path, raised: str, said: bytes) -> None:
    broken = f"import mc\ndef pack(*a, **k): raise {raised}\nmc.pack = pack\n"
    broken += "from mc_cli.main import entry\nentry()"
    done = mc("pack", "model.safetensors", cwd=place, command=("-c", broken))
    assert done.returncode == 1 and said in done.stderr and b"Traceback" not in done.stderr
    done = mc("pack", "-v", "model.safetensors", cwd=place, command=("-c", broken))
    assert done.returncode == 1 and b"Traceback" in done.stderr


def test_the_progress_bar_counts_bytes_at_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from mc_cli import show

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown(terminal: io.StringIO, **flags: bool) -> str:
        monkeypatch.setattr(sys, "stderr", terminal)
        manner = show.Manner(**{"quiet": False, "verbose": False, "json": False, "bar": True} | flags)
        with show.progress("packing", manner) as advance:
            if advance is not None:
                for done in (1_000_000, 50_000_000, 100_000_000):
                    advance(done, 100_000_000)
        return terminal.getvalue()

    monkeypatch.setattr(show, "BAR_AFTER_SECONDS", 0)
    monkeypatch.setattr(show, "BAR_EVERY_SECONDS", 0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    drawn = shown(Terminal())
    assert "packing" in drawn and "50.0/100.0 MB" in drawn and "\x1b[32m" in drawn
    assert shown(Terminal(), quiet=True) == shown(Terminal(), bar=False) == shown(io.StringIO()) == ""
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in shown(Terminal())
