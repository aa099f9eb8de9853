"""A list of videos: a csv file with the columns `item_id,path`, or `path` alone.

    item_id,path
    kitchen_1,recordings/2024-05-01.mp4

Paths are relative to the list's own folder, or absolute. Without an `item_id` column the id is the path as written;
of an absolute path it is the file name, so that no store carries one machine's folders.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from vidloc.datasets.media_files import unusable_id
from vidloc.datasets.tables import Row, read_table
from vidloc.errors import AnnotationError


def read_video_list(path: Path) -> dict[str, Path]:
    """Files by item id, in the order of the list. Whether the files exist is not looked at.

    Raises:
        AnnotationError: no such list, no `path` column, an unusable id, or one id for two lines.
    """
    table = read_table(path, ("path",))
    if not table.rows:
        raise AnnotationError(f"{path} lists no videos; below the header `item_id,path` give one line per video.")
    paths: dict[str, Path] = {}
    for row in table.rows:
        item = row.text("item_id") if "item_id" in table.columns else _id_from_path(row)
        reason = unusable_id(item)
        if reason:
            raise AnnotationError(f"{path}, line {row.line}: {item!r} cannot be an item id: {reason}.")
        if item in paths:
            raise AnnotationError(
                f"{path}, line {row.line}: the item id {item!r} occurs a second time. "
                "Give every line its own id in an item_id column."
            )
        paths[item] = path.parent / row.text("path")
    return paths


def _id_from_path(row: Row) -> str:
    written = PurePosixPath(row.text("path"))
    return written.name if written.is_absolute() else written.as_posix()
