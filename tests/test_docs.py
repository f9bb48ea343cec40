"""What the documents say is what the command does: lists, examples, names."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import mc as library
from mc import __version__
from mc.lossy.requests import KEYS
from mc.recipe import OBJECTIVES
from mc_cli.commands import EXIT_CODES, cli
from mc_cli.files import packed_name

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
QUANTIZING = (ROOT / "QUANTIZE.md").read_text()
CHOOSING = (ROOT / "AUTO.md").read_text()
Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


def blocks(language: str, document: str = README) -> list[str]:
    """The fenced blocks of a language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


def examples(command: click.Command) -> list[str]:
    """The lines under `Examples:` at the very end of a command's help."""
    # click keeps a command's help option once it is made: it is made as the command itself would.
    with click.Context(command, info_name=command.name, help_option_names=["-h", "--help"]) as context:
        shown = command.get_help(context)
    lines = [line.strip() for line in shown.rstrip().splitlines()]
    return lines[lines.index("Examples:") + 1 :]


@pytest.fixture
def shell(place: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose PATH has this checkout as `mc`."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "mc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mc_cli "$@"\n')
    (folder / "mc").chmod(0o755)
    return {**env, "PATH": f"{folder}:{env['PATH']}"}


def run(script: str, cwd: Path, env: dict[str, str]) -> None:
    """Run a shell script that must succeed in every line."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=cwd, env=env, capture_output=True, timeout=300
    )
    assert done.returncode == 0, f"{script}\n{done.stdout.decode()}\n{done.stderr.decode()}"


def test_the_command_list_of_readme_is_that_of_the_command() -> None:
    listed = re.findall(r"^\| `mc (\w+)[^`]*` \|", README, re.MULTILINE)
    assert listed == sorted(cli.commands)


def test_the_exit_codes_of_readme_are_those_of_the_help() -> None:
    table = re.findall(r"^\| (\d[\d, ]*) \| \w", README, re.MULTILINE)
    assert re.findall(r"\d+", " ".join(table)) == re.findall(r"^  (\d+)", EXIT_CODES, re.MULTILINE)


@pytest.mark.parametrize("command", [cli, *cli.commands.values()], ids=lambda command: command.name)
def test_every_help_opens_with_a_sentence_and_ends_with_two_examples(command: click.Command) -> None:
    first = (command.help or "").split("\n\n")[0]
    assert re.fullmatch(r"[A-Z][^.]*\.", first) and len(first) < 80
    assert len(examples(command)) == 2
    assert all(example.startswith("mc ") for example in examples(command))


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_every_example_in_a_help_runs(name: str, place: Path, mc_inside: Command) -> None:
    command = cli.commands[name] if name else cli
    for number, example in enumerate(examples(command)):
        folder = place / str(number)
        shutil.copytree(place / "folder", folder / "folder")
        shutil.copy(place / "model.safetensors", folder)
        if name in ("unpack", "verify"):
            library.pack(folder / "model.safetensors", folder / "model.mc.safetensors")
        if name == "unpack":
            (folder / "model.safetensors").unlink()
        done = mc_inside(*shlex.split(example)[1:], cwd=folder)
        assert done.returncode == 0, (example, done.stderr.decode())


@pytest.mark.parametrize("block", blocks("sh") + blocks("sh", QUANTIZING), ids=lambda block: block.splitlines()[0])
def test_every_shell_example_runs(block: str, place: Path, shell: dict[str, str]) -> None:
    run(block, place, shell)


def test_the_python_examples_run(place: Path, shell: dict[str, str]) -> None:
    for block in blocks("python") + blocks("python", QUANTIZING):
        (place / "example.py").write_text(block)
        run(f"'{sys.executable}' example.py", place, shell)


def test_the_pattern_rule_in_readme_makes_the_packed_file(place: Path, shell: dict[str, str]) -> None:
    (place / "Makefile").write_text("".join(blocks("make")))
    run("make model.mc.safetensors && mc verify model.mc.safetensors model.safetensors", place, shell)
    run("make model.mc.safetensors | grep 'up to date'", place, shell)


def test_the_pattern_rule_of_auto_carries_out_a_kept_plan(place: Path, shell: dict[str, str]) -> None:
    (place / "Makefile").write_text("".join(blocks("make", CHOOSING)))
    run("mc auto -q model.safetensors -n --bits 4 --plan-out model.plan.json", place, shell)
    run(
        "make model.mc.safetensors && mc verify model.mc.safetensors && make model.mc.safetensors | grep 'up to date'",
        place,
        shell,
    )


def test_schemes_keys_and_objectives_are_those_of_the_command() -> None:
    listed = re.findall(r"^\| (`\w+`[^|]*) \|(.*?)\| [\w\[]", QUANTIZING.split("## Targets")[0], re.MULTILINE)
    found = {
        name: set(re.findall(r"`(\w+)=", keys)) for names, keys in listed for name in re.findall(r"`(\w+)`", names)
    }
    wanted = {name: set(keys) for name, keys in KEYS.items() if name != "int"}
    assert found == {**wanted, "int2": set(KEYS["int"]), "int8": set(KEYS["int"])}
    objectives = QUANTIZING.split("## Objectives")[1].split("```")[0]
    assert re.findall(r"^\| `(\w+)`", objectives, re.MULTILINE) == list(OBJECTIVES)


def test_the_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets >= {"demo", "test", "check", "bench", "fuzz", "clean"}
    assert set(re.findall(r"(?:`|\$ )make ([a-z]+)", README)) <= targets


def test_ci_runs_the_test_command_of_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert "make test" in script.read_text() and "$ make test" in README


def hook() -> dict[str, Any]:
    """The one hook that this repository offers."""
    (found,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert isinstance(found, dict)
    return found


def damage(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def test_the_hook_takes_many_files_and_fails_for_a_damaged_one(place: Path, shell: dict[str, str]) -> None:
    (asked,) = yaml.safe_load(blocks("yaml", CHOOSING)[1])["repos"]
    assert asked["rev"] == f"v{__version__}" and [one["id"] for one in asked["hooks"]] == [hook()["id"]]
    names = [
        name for name in ("model.safetensors", "model.mc.safetensors", "x.json") if re.search(hook()["files"], name)
    ]
    assert names == ["model.safetensors", "model.mc.safetensors"]
    run(
        f"mc auto -q model.safetensors -o model.mc.safetensors --bits 4; {hook()['entry']} {' '.join(names)}",
        place,
        shell,
    )
    damage(place / "model.mc.safetensors")
    run(f"code=0; {hook()['entry']} {' '.join(names)} > said 2>&1 || code=$?; test $code = 3", place, shell)
    assert "model.mc.safetensors" in (place / "said").read_text()


def test_the_steps_for_github_actions_do_what_they_say(place: Path, shell: dict[str, str]) -> None:
    install, *steps = [step["run"] for step in yaml.safe_load(blocks("yaml", CHOOSING)[0])]
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    assert install == f"pip install {name}"  # what `shell` has on its PATH
    (Path(shell["PATH"].split(":")[0]) / "python").symlink_to(sys.executable)
    # A test that reads what it is given: the restored file is plain safetensors.
    (place / "test.py").write_text(
        "import json, sys\nfile = open(sys.argv[1], 'rb')\nlength = int.from_bytes(file.read(8), 'little')\n"
        "print(len(json.loads(file.read(length))))\n"
    )
    made, check, *_ = steps
    for step in steps:
        run(step, place, shell)
    assert (place / "model.mc.safetensors").stat().st_size < (place / "model.safetensors").stat().st_size / 4
    damage(place / "model.mc.safetensors")
    run(f"code=0; {check} || code=$?; test $code = 3", place, shell)
    (place / "test.py").write_text("raise SystemExit('the model is no good')")
    run(f"rm *.mc.*; code=0; {made} || code=$?; test $code = 1 && ! test -e model.mc.safetensors", place, shell)


def test_the_step_in_readme_fails_for_a_damaged_file(place: Path, shell: dict[str, str]) -> None:
    ((step,),) = [yaml.safe_load(block) for block in blocks("yaml")]
    run(f"mc pack -q model.safetensors; {step['run']}", place, shell)
    damage(place / "model.mc.safetensors")
    run(f"code=0; {step['run']} || code=$?; test $code = 3", place, shell)


def test_the_version_stands_in_the_changelog() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_names_in_readme_are_the_default_names() -> None:
    assert packed_name(Path("model.safetensors")) == Path("model.mc.safetensors")
    assert "`model.safetensors` -> `model.mc.safetensors`" in README
