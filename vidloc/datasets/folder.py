"""Any folder of videos and sounds: an item is a file, its id the path below the folder with the extension.

`a.mp4` and `a.m4a` are two items. Which files count is the rule of `vidloc.datasets.media_files`.
"""

from __future__ import annotations

from pathlib import Path

from vidloc.datasets.base import Annotations, Dataset, Media
from vidloc.datasets.media_files import media_files
from vidloc.errors import OptionError


class Folder(Dataset):
    """Reader of a folder without annotations."""

    def read(self, annotations: Path | None) -> Annotations:
        """No segments and no classes: a folder has none.

        Raises:
            OptionError: an annotation file was given.
        """
        if annotations is not None:
            raise OptionError(
                f"--dataset folder has no annotations, got --annotations {annotations}. "
                "For your own labels use --dataset segments."
            )
        return Annotations(dataset=self.name, classes={}, splits={}, items=(), sha256={})

    def find_media(self, root: Path, annotations: Annotations | None) -> Media:
        """All media files below `root`; other files are listed as ignored.

        Raises:
            MediaError: no such folder.
        """
        files = media_files(root)
        return Media(paths=files.paths, missing=(), ignored=files.ignored)


DATASET = Folder
