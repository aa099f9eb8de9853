"""Names of the classes that a classifier's scores number: from a file, or those that its published weights learned."""

from __future__ import annotations

import csv
from pathlib import Path

from torchvision.models import ResNet50_Weights
from torchvision.models.video import R2Plus1D_18_Weights

from vidloc.errors import OptionError

# In the order of every public Kinetics-400 checkpoint: alphabetic without regard to case (compared with kylemin's
# label_map.txt, which lists DeepMind's order, and with torchvision's own).
KINETICS_400: tuple[str, ...] = tuple(R2Plus1D_18_Weights.KINETICS400_V1.meta["categories"])

# ILSVRC's thousand, in the order of their WordNet ids, which Caffe's checkpoints share.
IMAGENET_1000: tuple[str, ...] = tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names from a file: of text, line k, counted from 0, names class k; of csv, the row whose id is k.

    EPIC-KITCHENS publishes csv files with `id,key` (-100) or `verb_id,class_key` (-55) as the first columns.

    Raises:
        OptionError: the file cannot be read, has an empty line between names, skips an id, or holds no name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"file of class names {str(path)!r} cannot be read: {error}") from error
    if path.suffix == ".csv":
        return _names_of_table(path, text)
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    if "" in names:
        raise OptionError(
            f"{path}, line {names.index('') + 1} is empty; a file of class names has one name per line, class 0 first."
        )
    return names


def _names_of_table(path: Path, text: str) -> tuple[str, ...]:
    header, *rows = csv.reader(text.splitlines()) if text.strip() else [[]]
    if len(header) < 2 or not (header[0].endswith("id") and header[1].endswith("key")):
        raise OptionError(
            f"{path} begins with the columns {', '.join(header[:2]) or '(none)'}; a csv of class names begins with "
            "id,key, as those of EPIC-KITCHENS do. A text file has one name per line."
        )
    names: list[str] = []
    for row in rows:
        if len(row) < 2 or row[0].strip() != str(len(names)) or not row[1].strip():
            raise OptionError(
                f"{path}: the row {','.join(row[:2])!r} is not id {len(names)} and its name; ids count from 0."
            )
        names.append(row[1].strip())
    if not names:
        raise OptionError(f"{path} names no class.")
    return tuple(names)


def score_names(classes: str, *, scores: bool, published: tuple[str, ...]) -> tuple[str, ...]:
    """The vocabulary of a classifier's stream; empty where scores are not stored, or their classes not known.

    Args:
        classes: the option of that name: a file, or empty.
        scores: whether scores are stored.
        published: names of the classes that the weights are known to have learned.

    Raises:
        OptionError: a file without scores, or one that cannot be read.
    """
    if classes and not scores:
        raise OptionError("classes=FILE names the classes of scores; add scores=true, or leave it out.")
    if classes:
        return read_class_names(Path(classes).expanduser())
    return published if scores else ()


def check_number(names: tuple[str, ...], num_classes: int, *, encoder: str, classes: str) -> None:
    """Make sure that there are as many names as the weights have classes, where there are names.

    Args:
        encoder: name of the encoder, for the message.
        classes: the file they came from.

    Raises:
        OptionError: another number.
    """
    if names and len(names) != num_classes:
        raise OptionError(
            f"encoder {encoder!r}: {classes} names {len(names)} classes, the weights have {num_classes}. Give the file "
            "of the classes that these weights learned."
        )
