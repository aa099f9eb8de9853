"""A list of videos: a csv file with the columns `item_id,path`, or `path` alone, and `fps` for numbered pictures.

    item_id,path,fps,flow_path,flow_fps
    kitchen_1,recordings/2024-05-01.mp4,,,
    kitchen_2,frames/2024-05-02,60000/1001,,
    kitchen_3,,,flow/2024-05-03.tar,30

Paths are relative to the list's own folder, or absolute. Without an `item_id` column the id is the path as written;
of an absolute path it is the file name, so that no store carries one machine's folders. A folder or tar archive is
one video as numbered pictures, of which nothing but `fps` tells the rate; a video file tells its own. Flow pictures
(`vidloc.core.numbered_pictures.FlowPictures`) may be named beside a video, or in place of one.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from vidloc.core.numbered_pictures import FrameRate, archive_stem
from vidloc.datasets.base import Media
from vidloc.datasets.media_files import unusable_id
from vidloc.datasets.tables import Row, read_table
from vidloc.errors import AnnotationError


def read_video_list(path: Path) -> Media:
    """Files by item id, in the order of the list, with the rates of those that are numbered pictures.

    Whether files exist is not looked at.

    Raises:
        AnnotationError: no such list, no `path` column, an unusable id, one id for two lines, or no rate for pictures.
    """
    paths: dict[str, Path] = {}
    rates: dict[str, FrameRate] = {}
    for item, row in _rows_by_id(path, "path").items():
        if not row.values["path"] and row.values.get("flow_path"):
            continue
        paths[item] = path.parent / row.text("path")
        if archive_stem(paths[item]) is not None or _is_folder(paths[item]):
            rates[item] = _rate(row, "path", "fps")
    return Media(paths, missing=(), frame_rates=rates)


def read_flow_list(path: Path) -> Media:
    """The same of the flow pictures that a list names; videos without any are left out.

    Raises:
        AnnotationError: as `read_video_list`, or no column `flow_path`.
    """
    paths: dict[str, Path] = {}
    rates: dict[str, FrameRate] = {}
    for item, row in _rows_by_id(path, "flow_path").items():
        if row.values["flow_path"]:
            paths[item] = path.parent / row.values["flow_path"]
            rates[item] = _rate(row, "flow_path", "flow_fps")
    return Media(paths, missing=(), frame_rates=rates)


def _rows_by_id(path: Path, column: str) -> dict[str, Row]:
    """Lines of a list that has a column, by item."""
    table = read_table(path, ("path", column))
    if not table.rows:
        raise AnnotationError(f"{path} lists no videos; below the header `item_id,path` give one line per video.")
    rows: dict[str, Row] = {}
    for row in table.rows:
        item = row.text("item_id") if "item_id" in table.columns else _id_from_path(row)
        reason = unusable_id(item)
        if reason:
            raise AnnotationError(f"{path}, line {row.line}: {item!r} cannot be an item id: {reason}.")
        if item in rows:
            raise AnnotationError(
                f"{path}, line {row.line}: the item id {item!r} occurs a second time. "
                "Give every line its own id in an item_id column."
            )
        rows[item] = row
    return rows


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no disk takes such a name; the run reports it
        return False


def _rate(row: Row, named: str, column: str) -> FrameRate:
    if column not in row.values:
        raise AnnotationError(
            f"{row.path}, line {row.line}: {row.text(named)!r} is a folder or tar archive of pictures, whose rate is "
            f"not known. Add a column {column} with its frames per second, such as 50, 59.94 or 60000/1001."
        )
    return FrameRate(row.rate(column), basis=f"column {column} of {row.path.name}")


def _id_from_path(row: Row) -> str:
    written = PurePosixPath(row.text("path"))
    return written.name if written.is_absolute() else written.as_posix()
