"""A checkpoint kept as a folder: which of its files are shards, and whether they are the ones its index
names.

The shards stand at the top of the folder, all plain (`X.safetensors`) or all packed (`X.mc.safetensors`,
which stands for `X.safetensors`); the index is the same file for both. Everything else is carried along
unread.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mc.checkpoint import LONGEST_HEADER, Source, read_layout
from mc.errors import DamagedError, McError, quote, reason
from mc.reports import Finding
from mc.strict_json import describe, parse_json

SHARD_SUFFIX = ".safetensors"
PACKED_SUFFIX = ".mc.safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl"})

_RESERVED = "__mc__"  # the tensor that marks a packed file (FORMAT.md); no index names it


@dataclass(frozen=True)
class Folder:
    """The files of a checkpoint's folder. Symlinked files and folders count as what they point to."""

    path: Path
    shards: tuple[str, ...]  # file names as they stand on disk, sorted
    others: tuple[str, ...]  # every other file, the index included, as relative paths with '/', sorted
    index: str | None  # file name

    @property
    def packed(self) -> bool:
        """Whether the shards are packed."""
        return any(name.endswith(PACKED_SUFFIX) for name in self.shards)


def refuse_pickle(path: str | os.PathLike[str]) -> None:
    """Raise McError with the line that converts it if `path` is named like a pickle (one of `PICKLES`)."""
    given = Path(path)
    if given.suffix.lower() in PICKLES:
        raise McError(
            f"{given} is named like a pickle, which can run any program when it is loaded; safetensors is "
            f"expected. Convert it: {_conversion(given)}"
        )


def read_folder(path: str | os.PathLike[str], suffix: str = SHARD_SUFFIX) -> Folder:
    """The folder at `path`, whose shards end in `suffix`, checked against its index if it has one.

    Raises DamagedError with the first of what `check_index` finds, and McError as `scan_folder` does.
    """
    folder = scan_folder(path, suffix)
    findings = check_index(folder)
    if findings:
        more = f" There are {len(findings) - 1} more such findings." if len(findings) > 1 else ""
        raise DamagedError(findings[0].message + more)
    return folder


def scan_folder(path: str | os.PathLike[str], suffix: str = SHARD_SUFFIX) -> Folder:
    """The files of the folder at `path`, by name alone: no file is opened.

    `suffix` ".mc.safetensors" asks for packed shards; the default takes whichever kind is there. Raises
    McError if the folder cannot be listed, or holds no shard, both kinds, several indexes, a broken link or a
    pipe.
    """
    top = Path(path)
    files = sorted(_files(top, "", ()))
    shards = tuple(name for name in files if "/" not in name and name.endswith(suffix))
    indexes = [name for name in files if "/" not in name and name.endswith(INDEX_SUFFIX)]
    if len(indexes) > 1:
        raise McError(
            f"{top} has the indexes {', '.join(indexes)}, so it is several checkpoints in one. "
            "Move each with its shards to a folder of its own."
        )
    if not shards and not indexes:
        raise McError(f"{top} has no file *{suffix}. {_advice(files, top)}")
    packed = [name for name in files if "/" not in name and name.endswith(PACKED_SUFFIX)]
    plain = [name for name in files if "/" not in name and name.endswith(SHARD_SUFFIX) and name not in packed]
    if packed and plain:
        raise McError(
            f"{top} has both packed shards ({packed[0]}) and plain ones ({plain[0]}). "
            "Move either kind to a folder of its own."
        )
    others = tuple(name for name in files if name not in shards)
    return Folder(top, shards, others, indexes[0] if indexes else None)


def check_index(folder: Folder) -> tuple[Finding, ...]:
    """Where the shards differ from what the index says, in order of file name; nothing if there is no index.

    Every shard that the index names must be there and hold exactly the tensors it is given, and no other
    shard may be there. Reads the headers of all shards. Raises DamagedError if the index itself is damaged,
    McError if a file cannot be read.
    """
    if folder.index is None:
        return ()
    weight_map = _weight_map(folder.path / folder.index)
    expected: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        expected.setdefault(shard, set()).add(tensor)
    standing = {plain_name(name): name for name in folder.shards}
    findings: list[Finding] = []
    for shard in sorted(expected.keys() | standing.keys()):
        if shard not in standing:
            name = packed_name(shard) if folder.packed else shard
            held = len(expected[shard])
            missing = f"is missing, and the index {folder.index} places {held} tensors in it. Fetch it."
            findings.append(_finding(folder, name, missing))
        elif shard not in expected:
            stray = f"is named nowhere in the index {folder.index}. Move it elsewhere or fetch the right index."
            findings.append(_finding(folder, standing[shard], stray))
        else:
            findings += _misplaced(folder, standing[shard], expected[shard], weight_map)
    return tuple(findings)


def _misplaced(folder: Folder, shard: str, expected: set[str], weight_map: dict[str, str]) -> Iterator[Finding]:
    """Where the tensors in the file `shard` differ from those expected there."""
    path = folder.path / shard
    try:
        with Source.of(path) as source:
            held = {tensor.name for tensor in read_layout(source).tensors}
    except DamagedError as error:
        yield Finding(str(path), None, "header", str(error))
        return
    if folder.packed:
        held.discard(_RESERVED)
    for name in sorted(expected - held):
        lacking = f"has no tensor {quote(name)}, though the index {folder.index} places it there. Fetch both again."
        yield _finding(folder, shard, lacking, name)
    for name in sorted(held - expected):
        home = f"places it in {quote(weight_map[name])}" if name in weight_map else "does not name it"
        astray = f"has the tensor {quote(name)}, but the index {folder.index} {home}. Fetch both again."
        yield _finding(folder, shard, astray, name)


def _finding(folder: Folder, shard: str, fault: str, tensor: str | None = None) -> Finding:
    path = str(folder.path / shard)
    return Finding(path, tensor, "index", f"{path} {fault}")


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name to shard, as the file `index` says."""
    with Source.of(index) as source:
        if source.size > LONGEST_HEADER:
            raise DamagedError(
                f"{index} has {source.size} bytes; an index has at most {LONGEST_HEADER}. Fetch it again."
            )
        content = parse_json(source.read(0, source.size), str(index))
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise DamagedError(f"{index} has no object 'weight_map' from tensors to shards. Fetch it again.")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or "/" in shard or "\0" in shard or not shard.endswith(SHARD_SUFFIX):
            raise DamagedError(
                f"{index} places the tensor {quote(tensor)} in {describe(shard)}, where the name of a "
                f"{SHARD_SUFFIX} file beside it was expected. Fetch it again."
            )
    return weight_map


def _files(top: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Relative paths of all files under `top / below`; `above` identifies the folders on the way down."""
    here = top / below
    try:
        found = here.stat()
        names = os.listdir(here)
    except OSError as error:
        raise McError(f"{here} cannot be listed: {reason(error)}. Give a folder that can be read.") from error
    identity = (found.st_dev, found.st_ino)
    if identity in above:
        raise McError(f"{here} is a link to a folder that holds it, so it has no end. Remove the link.")
    for name in names:
        path = here / name
        try:
            mode = path.stat().st_mode
        except OSError as error:
            found_there = f"it points to {os.readlink(path)}" if path.is_symlink() else "it is no link"
            raise McError(f"{path} cannot be read: {reason(error)}; {found_there}. Fetch or remove it.") from error
        if stat.S_ISDIR(mode):
            yield from _files(top, f"{below}{name}/", (*above, identity))
        elif stat.S_ISREG(mode):
            yield f"{below}{name}"
        else:
            raise McError(f"{path} is a pipe, a socket or a device, where a file was expected. Remove it.")


def _advice(files: list[str], top: Path) -> str:
    """What to do about a folder without shards."""
    deeper = [name for name in files if name.endswith(SHARD_SUFFIX) and "/" in name]
    if deeper:
        return f"There is {deeper[0]} below it: give the folder {top / os.path.dirname(deeper[0])}."
    pickles = [name for name in files if Path(name).suffix.lower() in PICKLES]
    if pickles:
        return f"{pickles[0]} is named like a pickle. Convert it: {_conversion(top / pickles[0])}"
    return "Give a folder that holds safetensors files."


def plain_name(shard: str) -> str:
    """What a shard is called when it is plain."""
    return shard.removesuffix(PACKED_SUFFIX) + SHARD_SUFFIX if shard.endswith(PACKED_SUFFIX) else shard


def packed_name(shard: str) -> str:
    """What a plain shard is called when it is packed."""
    return shard.removesuffix(SHARD_SUFFIX) + PACKED_SUFFIX


def _conversion(pickle: Path) -> str:
    """One shell line that turns `pickle` into safetensors; it loads weights only, so it runs nothing."""
    program = (
        "import sys, torch; from safetensors.torch import save_file; "
        "weights = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
        "save_file({name: w.contiguous().clone() for name, w in weights.items()}, sys.argv[2])"
    )
    target = pickle.with_suffix(SHARD_SUFFIX)
    return f'python -c "{program}" {shlex.quote(str(pickle))} {shlex.quote(str(target))}'
