"""Every attack in fixtures/attacks is refused, whichever way it is read: soon, in little memory, by a McError."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import make_attacks
import mc
from anatomy import seal
from container_attacks import sound
from jail import REFUSED, RESTORED, WAYS, Jail

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "attacks"
ATTACKS = sorted(path.name.removesuffix(make_attacks.SUFFIX) for path in FOLDER.glob(f"*{make_attacks.SUFFIX}"))
ALLOWANCE = 100 << 20  # bytes that reading an attack may take
SECONDS = 10


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail(ALLOWANCE, SECONDS) as started:
        yield started


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused(jail: Jail, name: str) -> None:
    data = (FOLDER / f"{name}{make_attacks.SUFFIX}").read_bytes()
    outcomes = [jail.read(way, data) for way in WAYS]
    assert [outcome for outcome in outcomes if outcome.kind != REFUSED] == []


def test_the_ground_that_attacks_stand_on_is_sound(jail: Jail) -> None:
    assert jail.read("decompress", seal(sound())).kind == RESTORED


def test_the_folder_is_what_the_script_writes() -> None:
    made = {name: data for name, _, data in make_attacks.attacks()}
    assert sorted(made) == ATTACKS
    assert [name for name in ATTACKS if (FOLDER / f"{name}{make_attacks.SUFFIX}").read_bytes() != made[name]] == []


def test_every_attack_has_a_line_in_the_readme() -> None:
    assert (FOLDER / "README.md").read_text() == make_attacks.readme(list(make_attacks.attacks()))


@pytest.mark.parametrize("name", ["tensor-of-2-40", "coding-9", "huffman-incomplete", "escape-outside", "zstd-bomb"])
def test_a_refusal_names_the_file_and_the_tensor(name: str) -> None:
    path = FOLDER / f"{name}{make_attacks.SUFFIX}"
    finding, *_ = mc.verify(path).findings
    assert finding.file == str(path)
    assert finding.tensor in ("x", "a") or "tensor 'x'" in finding.message
