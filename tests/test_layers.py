"""Imports run downwards only, the library does not print, and importing it is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the top down. A module may import from its own layer and from those below it.
LAYERS = [
    ["mc_cli.__main__"],
    ["mc_cli.main"],
    ["mc_cli.commands"],
    ["mc_cli.overview", "mc_cli.page", "mc_cli.planned", "mc_cli.difference"],
    ["mc_cli.evaluating"],
    ["mc_cli.options", "mc_cli.files", "mc_cli.show", "mc_cli.charts"],
    ["mc_cli"],
    ["mc"],
    ["mc.warming", "mc.ahead"],
    ["mc.pruning", "mc.simplifying", "mc.automatic", "mc.restoring", "mc.api"],
    ["mc.rewriting"],
    ["mc.places", "mc.beside"],
    ["mc.plan"],
    ["mc.analysis"],
    ["mc.lossy"],
    ["mc.verifying", "mc.loader"],
    ["mc.inflating"],
    ["mc.packing", "mc.unpacking"],
    ["mc.recipe"],
    ["mc.schemes"],
    ["mc.units"],
    ["mc.opening", "mc.pieces", "mc.heading", "mc.twins", "mc.together"],
    ["mc.manifest", "mc.blob"],
    ["mc.codec"],
    ["mc.folder", "mc.checkpoint", "mc.streams"],
    ["mc.source", "mc.atomic", "mc.scratch", "mc.strict_json"],
    ["mc.parallel", "mc.crew", "mc.memory", "mc.early", "mc.dtypes", "mc.errors", "mc.reports", "mc.progress"],
]
NEVER_IN_THE_LIBRARY = {"click", "rich", "mc_cli", "logging"}


def modules() -> dict[str, Path]:
    """Every module of both packages, by dotted name."""
    found = {}
    for top in (ROOT / "core", ROOT / "cli"):
        for path in top.rglob("*.py"):
            parts = path.relative_to(top).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[tuple[str, int]]:
    """Every module of ours or of others that a module imports anywhere in its text, with the line."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES else base), node.lineno


def layer(name: str) -> int:
    """The layer of a module: that of the longest listed name that it is or lies in; the tops count alone."""
    ranks = {entry: rank for rank, row in enumerate(LAYERS) for entry in row}
    if name in ("mc", "mc_cli"):
        return ranks[name]
    found = [entry for entry in ranks if name == entry or (name.startswith(entry + ".") and "." in entry)]
    assert found, f"{name} has no layer yet: give it a place in LAYERS"
    return ranks[max(found, key=len)]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downwards_only(name: str) -> None:
    for imported, line in imports(name):
        if imported in MODULES:
            assert layer(imported) >= layer(name), f"{MODULES[name]}:{line} imports {imported} from above it"


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: {i for i, _ in imports(name) if i in MODULES and i != name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for below in graph[name]:
                visit(below, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.split(".")[0] == "mc"))
def test_the_library_neither_prints_nor_knows_the_command(name: str) -> None:
    for imported, line in imports(name):
        assert imported.split(".")[0] not in NEVER_IN_THE_LIBRARY, f"{MODULES[name]}:{line}"
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input"), f"{MODULES[name]}:{node.lineno}"


def test_importing_the_library_is_cheap(env: dict[str, str]) -> None:
    script = "import sys, mc; print(*sorted({'numba', 'ml_dtypes', 'click', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_loops_are_made_ready_without_blas_and_leave_it_to_others(env: dict[str, str]) -> None:
    script = (
        "import sys, mc.codec.compiled, numba, numpy as np; print('scipy.linalg' in sys.modules);"
        "print(numba.njit(lambda a: np.cov(a))(np.eye(2)).tolist());"
        "import scipy.linalg.cython_blas as blas; print(hasattr(blas, '__pyx_capi__'))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["False", "[[0.5, -0.5], [-0.5, 0.5]]", "True"], done
