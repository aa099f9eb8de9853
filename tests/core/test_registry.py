"""Names and paths to classes, without importing the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidloc.core import registry
from vidloc.errors import UnknownNameError, VidlocError


def test_a_path_works_wherever_a_name_does(tmp_path: Path) -> None:
    file = tmp_path / "my_head.py"
    file.write_text("class Mine:\n    pass\n\nHEAD = Mine\n")
    loaded = registry.load("heads", str(file))
    assert (loaded.name, loaded.origin, loaded.target.__name__) == ("my_head", str(file), "Mine")
    assert registry.load("heads", str(file)).target is loaded.target


@pytest.mark.parametrize(
    ("source", "message"),
    [("x = 1\n", "does not assign HEAD"), ("import no_such_module\n", "fails to import: ModuleNotFoundError")],
)
def test_files_that_are_no_head(tmp_path: Path, source: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(source)
    with pytest.raises(VidlocError, match=message):
        registry.load("heads", str(file))


def test_unknown_names_show_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no encoder called 'slowfast_r51'\. Did you mean slowfast_r50\?"):
        registry.load("encoders", "slowfast_r51")
    with pytest.raises(UnknownNameError, match="no file"):
        registry.load("encoders", "./absent.py")


def test_own_encoders_are_found_without_importing_them() -> None:
    found = registry.entries("encoders")
    assert {"slowfast_r50", "i3d_r50", "vggish", "fasterrcnn", "text"} <= set(found)
    assert all(entry.summary for entry in found.values() if entry.entry_point is None)


def test_a_name_with_a_colon_stands_for_what_follows_it(tmp_path: Path) -> None:
    (tmp_path / "My Model").mkdir()
    for name, recorded in ((f"hf:{tmp_path}/My Model", "hf:My Model"), ("hf:org/model", "hf:org/model")):
        loaded = registry.load("encoders", name)
        assert (loaded.name, loaded.recorded, loaded.origin) == (name, recorded, "vidloc.extract.hf")
    assert registry.load("encoders", "vggish").recorded == "vggish"
    with pytest.raises(UnknownNameError, match="no encoder called 'text:model'"):
        registry.load("encoders", "text:model")


def test_two_providers_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = registry.Entry("vggish", "other-package (x:Y)", "")
    monkeypatch.setattr(registry, "_entry_points", lambda group: iter([twice]))
    registry.entries.cache_clear()
    with pytest.raises(VidlocError, match=r"called 'vggish': vidloc\.extract\.vggish and other-package"):
        registry.entries("encoders")
    registry.entries.cache_clear()
