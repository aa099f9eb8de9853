"""From a name or a path to a head, encoder, dataset or import layout, without importing the others.

A file of the package that assigns `HEAD`, `ENCODER`, `DATASET` or `LAYOUT` at top level is one; its name is the file's
name, or each of the names in a literal `NAMES = (...)` where one file holds a family. Both are read with `ast`, so that
listing imports nothing. A name that ends with a colon takes what follows it: `hf:` stands for every `hf:FOLDER`.
Third-party packages declare an entry point in the group `vidloc.heads`, `vidloc.encoders`, `vidloc.datasets` or
`vidloc.imports`. A path to a Python file works wherever a name does.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from vidloc.errors import UnknownNameError, VidlocError, did_you_mean

Group = Literal["heads", "encoders", "datasets", "imports"]
_FOLDERS: dict[Group, tuple[str, str]] = {
    "heads": ("heads", "HEAD"),
    "encoders": ("extract", "ENCODER"),
    "datasets": ("datasets", "DATASET"),
    "imports": ("stores/imports", "LAYOUT"),
}


@dataclass(frozen=True)
class Entry:
    """One registered name.

    Attributes:
        name: what a user types.
        origin: module, `package (module:attribute)`, or file that provides it.
        summary: first line of its docstring, empty for entry points (which are not imported to be listed).
    """

    name: str
    origin: str
    summary: str
    module: str | None = None
    entry_point: EntryPoint | None = None


@dataclass(frozen=True)
class Loaded:
    """What a name stands for: the class, the name it was asked for by, and where it came from."""

    name: str
    origin: str
    target: Any

    @property
    def recorded(self) -> str:
        """The name as a store keeps it: of a folder (`hf:FOLDER`) the last part, as of the path of a file."""
        family, colon, argument = self.name.partition(":")
        folder = Path(argument).expanduser()
        return f"{family}:{folder.resolve().name}" if colon and argument and folder.is_dir() else self.name


@cache
def entries(group: Group) -> dict[str, Entry]:
    """All registered names of a group, sorted.

    Raises:
        VidlocError: two providers of one name; both origins are shown.
    """
    found: dict[str, Entry] = {}
    for entry in (*_own_files(group), *_entry_points(group)):
        if entry.name in found:
            raise VidlocError(
                f"two {group} are called {entry.name!r}: {found[entry.name].origin} and {entry.origin}. "
                "Uninstall one of them, or use a path."
            )
        found[entry.name] = entry
    return dict(sorted(found.items()))


def load(group: Group, name: str) -> Loaded:
    """The class behind a name or a path to a Python file.

    Raises:
        UnknownNameError: no such name, or no such file.
        VidlocError: the file does not assign HEAD (ENCODER, DATASET, LAYOUT), or fails to import.
    """
    attribute = _FOLDERS[group][1]
    if name.endswith(".py"):
        return _from_path(group, Path(name))
    entry = entry_of(group, name)
    if entry is None:
        raise UnknownNameError(f"there is no {group[:-1]} called {name!r}. {did_you_mean(name, entries(group))}")
    if entry.entry_point is not None:
        return Loaded(name, entry.origin, entry.entry_point.load())
    module = importlib.import_module(str(entry.module))
    return Loaded(name, entry.origin, getattr(module, attribute))


def entry_of(group: Group, name: str) -> Entry | None:
    """The entry of a registered name, or of the family that it begins with (`hf:` of `hf:FOLDER`)."""
    known = entries(group)
    family, colon, _ = name.partition(":")
    return known.get(name) or known.get(family + colon)


def _own_files(group: Group) -> Iterator[Entry]:
    folder, attribute = _FOLDERS[group]
    root = Path(__file__).parent.parent / folder
    for path in sorted(root.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = _assignments(tree)
        if attribute not in assigned:
            continue
        names = ast.literal_eval(assigned["NAMES"]) if "NAMES" in assigned else (path.stem,)
        summary = (ast.get_docstring(tree) or "").split("\n", 1)[0]
        module = f"vidloc.{folder.replace('/', '.')}.{path.stem}"
        yield from (Entry(name, module, summary, module=module) for name in names)


def _entry_points(group: Group) -> Iterator[Entry]:
    for point in entry_points(group=f"vidloc.{group}"):
        package = point.dist.name if point.dist is not None else "?"
        yield Entry(point.name, f"{package} ({point.value})", "", entry_point=point)


def _assignments(tree: ast.Module) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found |= {t.id: node.value for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found[node.target.id] = node.value
    return found


def _from_path(group: Group, path: Path) -> Loaded:
    attribute = _FOLDERS[group][1]
    if not path.is_file():
        raise UnknownNameError(f"there is no file {str(path)!r}; give a registered name or the path of a Python file.")
    module = _import_file(path.resolve())
    if not hasattr(module, attribute):
        raise VidlocError(f"{path} does not assign {attribute} at top level; end it with '{attribute} = YourClass'.")
    return Loaded(path.stem, str(path.resolve()), getattr(module, attribute))


def _import_file(path: Path) -> ModuleType:
    # Registered under a name made from the whole path: classes of it must be found again by pickle (workers).
    name = "vidloc_user_" + "".join(c if c.isalnum() else "_" for c in str(path.with_suffix("")))
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise VidlocError(f"{path} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise VidlocError(f"{path} fails to import: {type(error).__name__}: {error}") from error
    return module
