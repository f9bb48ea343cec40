"""`mc analyze` as a shell sees it: what it prints where, what it refuses, and that nothing makes it crash."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import environment, safetensors
from mc import analyze
from mc.automatic import auto
from mc.errors import DamagedError, McError
from mc.plan.goals import Goal

if TYPE_CHECKING:
    import subprocess

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


def at_terminal(cwd: Path, columns: int, *arguments: str) -> str:
    """What the command prints at a terminal of so many columns, without its colours."""
    reader, writer = pty.openpty()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.chdir(cwd)
        for descriptor in (0, 1, 2):
            os.dup2(writer, descriptor)
        env = environment(COLUMNS=str(columns), NO_COLOR="1")
        os.execve(sys.executable, [sys.executable, "-m", "mc_cli", "analyze", "--no-progress", *arguments], env)
    os.close(writer)
    parts = []
    while True:
        try:
            part = os.read(reader, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(parts).decode()).replace("\r\n", "\n")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with a checkpoint of every tensor that statistics stumble over."""
    tensors: dict[str, tuple[str, np.ndarray]] = {
        "empty": ("F32", np.empty((0, 4), "f4")),
        "none": ("BF16", np.empty(0, np.uint16)),
        "scalar": ("F64", np.array(2.5)),
        "constant": ("F16", np.full((4, 4), 0.5, np.float16)),
        "nan": ("F32", np.full((3, 3), np.nan, "f4")),
        "infinite": ("F32", np.array([np.inf, -np.inf, 1, 2], "f4")),
        "huge": ("F64", np.array([1e308, -1e308, 1e-308])),
        "tiny": ("F64", np.array([[5e-324, 0], [1e-320, 0]])),
        "bool": ("BOOL", np.array([0, 1, 1], np.uint8)),
        "integer": ("I64", np.array([-(2**63), 2**63 - 1, 0])),
        "unsigned": ("U64", np.array([2**64 - 1, 0], np.uint64)),
        "fp8": ("F8_E4M3", np.arange(256, dtype=np.uint8)),
        "scale": ("F8_E8M0", np.arange(120, 130, dtype=np.uint8)),
        "fp4": ("F4", np.arange(256, dtype=np.uint8).reshape(16, 16)),
        "complex": ("C64", np.arange(8, dtype="f4")),
        "unknown": ("F7_WHAT", np.arange(21, dtype=np.uint8)),
        "column": ("F32", np.arange(6, dtype="f4").reshape(6, 1)),
        "zeros": ("BF16", np.zeros((70, 70), np.uint16)),
        "minus": ("F32", np.full((70, 70), -0.0, "f4")),
    }  # fmt: skip
    blob = safetensors(tensors)
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    header["fp4"]["shape"], header["complex"]["shape"] = [16, 32], [4]
    text = json.dumps(header).encode()
    (tmp_path / "odd.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + blob[8 + length :])
    return tmp_path


def test_no_tensor_is_too_odd(mc_inside: Command, odd: Path) -> None:
    assert mc_inside("pack", "-q", "odd.safetensors", cwd=odd).returncode == 0
    names = ("odd.safetensors", "odd.mc.safetensors")
    done = mc_inside("analyze", *names, "--json", "--html", "odd.html", cwd=odd)
    assert done.returncode == 0, done.stderr.decode()
    plain, packed = json.loads(done.stdout, parse_constant=_never)["checkpoints"]
    for one, other in zip(plain["tensors"], packed["tensors"], strict=True):
        assert {**one, "file": None} == {**other, "file": None}
    found = {tensor["name"]: tensor for tensor in plain["tensors"]}
    assert len(found) == 19
    assert found["nan"]["moments"]["nan"] == 9 and found["nan"]["moments"]["mean"] is None
    assert found["infinite"]["moments"]["infinite"] == 2 and found["infinite"]["moments"]["max"] == 2
    assert found["huge"]["moments"]["max"] == 1e308 and found["huge"]["moments"]["std"] is None
    assert found["tiny"]["moments"]["subnormals"] == 2
    assert found["fp4"]["counted"] == 512 and found["complex"]["counted"] == 8
    assert found["constant"]["bits"]["constant"] and found["empty"]["bits"]["joint"] is None
    assert found["unknown"]["dtype"] == "F7_WHAT" and found["unknown"]["counted"] == 21
    assert all(tensor["advice"] for tensor in found.values())
    tsv = mc_inside("analyze", "odd.safetensors", cwd=odd)
    assert tsv.returncode == 0 and len(tsv.stdout.splitlines()) == 20
    assert "whole" in at_terminal(odd, 60, "odd.safetensors")


def test_odd_tensors_are_shown_large(odd: Path) -> None:
    from mc_cli.overview import large

    for tensor in analyze(odd / "odd.safetensors").tensors:
        lines = large(tensor, 80)
        assert lines[0].startswith(f"{tensor.name}  {tensor.dtype}") and any("* " in line for line in lines)


def _never(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def test_tsv_names_everything_and_json_is_the_same(mc: Command, place: Path) -> None:
    done = mc("analyze", "model.safetensors", cwd=place)
    assert done.returncode == 0
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert len(lines) == 10 and {len(line) for line in lines} == {len(lines[0])}
    rows = {line[1]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}
    assert re.fullmatch(r"9 tensors, \d+\.\d kB, \d+\.\d\d s\n", done.stderr.decode())
    report = json.loads(mc("analyze", "model.safetensors", "--json", cwd=place).stdout)
    assert (report["schema"], report["command"]) == (1, "analyze")
    (checkpoint,) = report["checkpoints"]
    for tensor in checkpoint["tensors"]:
        row = rows[tensor["name"].replace("\t", "\\t")]
        assert int(row["parameters"]) == tensor["parameters"]
        assert int(row["default"]) == tensor["predicted_bytes"]["default"]
    assert rows["decoder.tied.weight"]["duplicate_of"] == "decoder.dense.weight"
    whole = checkpoint["whole"]
    assert whole["tensors"] == 9 and whole["bytes"] == (place / "model.safetensors").stat().st_size
    assert set(whole["predicted_bytes"]) == {"fast", "default", "best"}
    assert {group["name"] for group in checkpoint["groups"]} >= {"encoder", "decoder"}


def test_paths_of_every_kind(mc_inside: Command, place: Path) -> None:
    values = np.random.default_rng(0).normal(size=(50, 20))
    np.save(place / "one.npy", values)
    np.save(place / "fortran.npy", np.asfortranarray(values.astype(">f4")))
    np.savez(place / "two.npz", a=values, b=np.arange(9, dtype=np.int16))
    names = ("model.safetensors", "folder", "one.npy", "fortran.npy", "two.npz")
    done = mc_inside("analyze", "--quick", "--json", *names, cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)["checkpoints"]
    assert [one["path"] for one in found] == list(names)
    assert [len(one["tensors"]) for one in found] == [9, 2, 1, 1, 2] and len(found[1]["files"]) == 2
    for one in (found[2]["tensors"][0], found[3]["tensors"][0], found[4]["tensors"][0]):
        assert one["moments"]["std"] == pytest.approx(values.std(), rel=1e-6) and one["shape"] == [50, 20]
    buffer = io.BytesIO()
    np.save(buffer, values)
    for content in ((place / "model.safetensors").read_bytes(), buffer.getvalue()):
        done = mc_inside("analyze", "--quick", "-", "--json", cwd=place, input=content)
        assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["checkpoints"][0]["tensors"][0]["shape"] == [50, 20]


def test_globs_samples_and_threads(mc_inside: Command, place: Path) -> None:
    globs = ("--tensor", "encoder.*.weight", "--tensor", "step")
    done = mc_inside("analyze", "model.safetensors", "--json", "--sample", "5000", "--seed", "1", *globs, cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    (found,) = json.loads(done.stdout)["checkpoints"]
    assert [tensor["name"] for tensor in found["tensors"]] == ["encoder.dense.weight", "step"]
    assert 5000 <= found["tensors"][0]["counted"] < 15000 < found["tensors"][0]["parameters"]
    path = place / "model.safetensors"
    one, again, other = (analyze(path, sample=5000, seed=seed, deep=False) for seed in (1, 1, 2))
    assert one == again != other
    assert analyze(path, threads=1) == analyze(path, threads=3)
    assert one.tensors[0].moments.mean == found["tensors"][0]["moments"]["mean"]


def test_at_a_terminal_lines_fit_and_one_tensor_is_shown_large(place: Path) -> None:
    for width in (60, 140):
        printed = at_terminal(place, width, "model.safetensors", "--quick")
        assert max(map(len, printed.splitlines())) <= width
        lines = printed.split("\n*")[0].splitlines()
        assert width == 60 or any("█" in line for line in lines)
        assert lines[0].startswith("tensor") and any(line.startswith("whole") for line in lines)
    large = at_terminal(place, 100, "model.safetensors", "--tensor", "encoder.dense.weight")
    assert max(map(len, large.splitlines())) <= 100
    for words in ("•", "exponent", "loses", "stable rank", "30 dB", "packed: fast", "* "):
        assert words in large
    advice = at_terminal(place, 100, "model.safetensors", "-v", "--quick")
    assert "decoder.tied.weight: Store once: it has the same bytes as 'decoder.dense.weight'." in advice


def test_a_plan_in_a_narrow_terminal_has_the_columns_that_matter_most(place: Path) -> None:
    auto(place / "model.safetensors", place / "m.mc.safetensors", goal=Goal("bits", 4), threads=1)
    for width, shown in ((80, False), (160, True)):
        lines = at_terminal(place, width, "m.mc.safetensors", "-v", "--quick").splitlines()
        heading = next(line for line in lines if "dearer by" in line)
        assert heading.startswith("tensor ") and ("its loss" in heading) is shown
        assert any(line.startswith("encoder.dense.weight ") for line in lines[lines.index(heading) :])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "Name a checkpoint"),
        (("nothing.safetensors",), 1, "does not exist"),
        (("model.safetensors", "--tensor", "nope*"), 1, "no tensor that matches"),
        (("cut.safetensors",), 3, "cut.safetensors"),
        (("empty.npy",), 3, "empty.npy"),
        (("text.npz",), 3, "text.npz"),
        (("objects.npy",), 3, "objects.npy"),
        (("model.safetensors", "--html", "model.safetensors", "-f"), 1, "name another with --html"),
        (("model.safetensors", "--html", "there.html"), 1, "already exists; -f replaces it, --html names another"),
        (("model.safetensors", "--html", "folder", "-f"), 1, "name a file in it with --html"),
        (("model.safetensors", "--html", ""), 2, "--html needs"),
        (("model.safetensors", "--html", "-"), 2, "go to a file"),
        (("model.safetensors", "--stats-out", "x"), 2, "--inputs"),
        (("model.safetensors", "--sample", "0"), 2, "--sample"),
        (("-", "-"), 2, "once"),
        (("--inputs", "-"), 2, "Save them"),
    ],
)
def test_what_is_refused(mc_inside: Command, place: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    (place / "cut.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:-9])
    (place / "empty.npy").write_bytes(b"")
    (place / "text.npz").write_bytes(b"PK\x03\x04nothing")
    np.save(place / "objects.npy", np.array([{}], object), allow_pickle=True)
    (place / "there.html").write_text("mine")
    done = mc_inside("analyze", *arguments, cwd=place, input=b"")
    assert done.returncode == code and said in done.stderr.decode(), done.stderr.decode()
    assert "Traceback" not in done.stderr.decode() and (place / "there.html").read_text() == "mine"
    if "--tensor" in arguments or "cut.safetensors" in arguments:
        error = json.loads(mc_inside("analyze", "--json", *arguments, cwd=place, input=b"").stderr)["error"]
        assert error["exit_code"] == code


def test_damage_in_a_packed_tensor_names_it(mc_inside: Command, place: Path, packed: bytes) -> None:
    broken = bytearray(packed)
    broken[-40] ^= 1
    (place / "b.mc.safetensors").write_bytes(broken)
    done = mc_inside("analyze", "b.mc.safetensors", cwd=place)
    assert done.returncode == 3 and b"tensor '" in done.stderr and b"b.mc.safetensors" in done.stderr


def test_a_page_is_one_file_and_names_do_no_harm(mc_inside: Command, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\u2028</script>"
    (tmp_path / "m.safetensors").write_bytes(safetensors({name: ("F32", np.ones((2, 2), "f4"))}))
    assert mc_inside("analyze", "-q", "m.safetensors", "--html", "m.html", cwd=tmp_path).returncode == 0
    text = (tmp_path / "m.html").read_text()
    assert "<img" not in text and "\u2028" not in text and text.count("</script>") == 3
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None and json.loads(data[1])[0]["tensors"][0]["name"] == name


def npy(header: str, data: bytes = b"") -> bytes:
    """A .npy file with this header."""
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


def described(shape: str, dtype: str = "'<f4'", fortran: bool = False) -> str:
    return f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def marked(archive: bytes, at: int, value: int) -> bytes:
    """The archive with a field of both headers of its first member changed; `at` counts from the version's place."""
    out = bytearray(archive)
    for word, shift in ((b"PK\x03\x04", 4), (b"PK\x01\x02", 6)):
        out[archive.index(word) + shift + at] = value
    return bytes(out)


FINE = npy(described("(2,)"), b"12341234")
HOSTILE_ARRAYS: dict[str, tuple[bytes, type[McError]]] = {
    "negative.npy": (npy(described("(-4, 2)"), bytes(32)), DamagedError),
    "bool.npy": (npy(described("(True, True)"), bytes(32)), DamagedError),
    "open.npy": (npy("{'shape': (1,)"), DamagedError),
    "deep.npy": (npy("(" * 9000), DamagedError),
    "unhashable.npy": (npy("{[]: 1}"), DamagedError),
    "call.npy": (npy("__import__('os').abort()"), DamagedError),
    "version.npy": (b"\x93NUMPY\x09\x00" + bytes(64), DamagedError),
    "fortran.npy": (npy(described("(1000000000000, 1000)", fortran=True), b"1234"), DamagedError),
    "swapped.npy": (npy(described("(1000000000000,)", "'>f4'"), b"1234"), DamagedError),
    "digits.npy": (npy(described(f"({'9' * 400},)"), b"1234"), DamagedError),
    "objects.npy": (npy(described("(3,)", "'|O'"), b"\x80\x04N."), DamagedError),
    "text.npy": (npy(described("(3,)", "'<U5'"), bytes(60)), McError),
    "fields.npy": (npy(described("(3,)", "[('a', '<f4')]"), bytes(12)), McError),
    "nothing.npy": (npy(described("(10,)", "'|V0'")), McError),
    "large.npz": (zipped(("a.npy", npy(described("(100000000000,)"), b"1234"))), DamagedError),
    "objects.npz": (zipped(("a.npy", npy(described("(3,)", "'|O'"), b"\x80\x04N."))), DamagedError),
    "text.npz": (zipped(("read.me", b"hello")), DamagedError),
    "empty.npz": (zipped(("a.npy", b"")), DamagedError),
    "twice.npz": (zipped(("a.npy", FINE), ("a.npy", FINE)), DamagedError),
    "encrypted.npz": (marked(zipped(("a.npy", FINE)), 2, 1), DamagedError),
    "method.npz": (marked(zipped(("a.npy", FINE)), 4, 99), DamagedError),
    "cut.npz": (zipped(("a.npy", FINE))[:-30], DamagedError),
}


@pytest.mark.parametrize("name", HOSTILE_ARRAYS)
def test_hostile_array_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    content, kind = HOSTILE_ARRAYS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(McError, match=name) as caught:
        analyze(tmp_path / name, deep=False)
    assert type(caught.value) is kind


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([FINE, zipped(("a.npy", FINE))]), st.data())
def test_damaged_array_files_never_crash(whole: bytes, data: st.DataObject) -> None:
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(McError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, of headers that Python 2 wrote
        analyze(io.BytesIO(content[: data.draw(st.integers(0, len(content)))]), deep=False, threads=1)
