"""Imports run one way: cli -> commands -> pipelines -> layers -> stores -> core -> errors."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vidloc

PACKAGE = Path(vidloc.__file__).parent
STORE_SIDE = {"core", "stores", "errors"}
ALLOWED = {
    "errors": set(),
    "core": {"errors"},
    "stores": {"core", "errors"},
    "extract": {"core", "errors"},
    "heads": {"core", "errors"},
    "metrics": {"core", "errors"},
    "datasets": STORE_SIDE,
    "retrieval": STORE_SIDE,
    "pipelines": {*STORE_SIDE, "extract", "heads", "metrics", "datasets", "retrieval", "testing"},
    "testing": {*STORE_SIDE, "extract", "heads", "metrics", "datasets", "retrieval", "pipelines"},
    "commands": {*STORE_SIDE, "pipelines", "extract", "heads", "metrics", "datasets", "retrieval", "testing", "cli"},
    "cli": {"core", "errors", "commands"},
    "__init__": {"stores"},
}


def layer(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported_layers(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "vidloc":
            names |= {f"vidloc.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("vidloc.")} - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file_imports_only_layers_below_it(path: Path) -> None:
    beyond = imported_layers(path.read_text(encoding="utf-8")) - ALLOWED[layer(path)] - {layer(path)}
    assert not beyond, f"{path.relative_to(PACKAGE)} imports {sorted(beyond)}"


def test_every_form_of_import_is_seen() -> None:
    source = "from vidloc.pipelines.train import train\nimport vidloc.heads.base\nfrom vidloc import extract\n"
    assert imported_layers(source) == {"pipelines", "heads", "extract"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("vidloc", ["torch", "faiss", "click", "av", "sklearn"]),
        ("vidloc.stores.backends", ["torch", "faiss", "click", "av", "sklearn"]),
        ("vidloc.metrics.recognition", ["torch", "click", "av"]),
        ("vidloc.cli", ["torch", "zarr", "h5py", "faiss", "av", "sklearn"]),
    ],
)
def test_import_stays_light(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
