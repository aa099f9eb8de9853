"""Every error vidloc raises on purpose, as one tree.

    VidlocError                          base: catch this to catch them all
    ├── OptionError (ValueError)         an option has an unknown name or a value outside its range
    ├── UnknownNameError (LookupError)   no head, encoder, dataset, stream role or split of that name
    ├── MediaError (OSError)             a video or sound file cannot be read, or not as asked
    ├── AnnotationError (ValueError)     an annotation file lacks a column or holds an impossible value
    ├── PickleError (ValueError)         a pickle asks for more than plain data, or is damaged
    ├── WeightsError (OSError)           a checkpoint is missing, altered, or does not fit its network
    │   └── MisfitError                  names or shapes of a checkpoint are not its network's
    ├── DeviceError (RuntimeError)       a device, or the process that used it, is lost in the middle of the work
    └── StoreError (OSError)             a feature store is damaged, locked or used wrongly
        ├── FormatVersionError           written in a format that this version does not read
        ├── StreamNotFoundError (KeyError)   no such stream, item or field
        └── ProvenanceError              rows of another origin were about to be mixed

A message says where, what was found, what was expected, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class VidlocError(Exception):
    """Base of all errors raised on purpose; its text is meant for the person at the keyboard."""


class OptionError(VidlocError, ValueError):
    """An option has an unknown name or a value outside its range."""


class UnknownNameError(VidlocError, LookupError):
    """No head, encoder, dataset, stream role or split has that name."""


class MediaError(VidlocError, OSError):
    """A video or sound file cannot be read, or not as asked."""


class AnnotationError(VidlocError, ValueError):
    """An annotation file lacks a column or holds an impossible value."""


class PickleError(VidlocError, ValueError):
    """A pickle asks for more than plain data, or is damaged."""


class WeightsError(VidlocError, OSError):
    """A checkpoint is missing, altered, or does not fit its network."""


class MisfitError(WeightsError):
    """Names or shapes of a checkpoint are not those of the network.

    Attributes:
        missing: names of the network that the checkpoint lacks.
        unknown: names of the checkpoint that the network lacks.
        mismatched: sentences, one for each tensor of another shape.
    """

    def __init__(
        self, message: str, *, missing: Sequence[str], unknown: Sequence[str], mismatched: Sequence[str]
    ) -> None:
        super().__init__(message)
        self.missing, self.unknown, self.mismatched = tuple(missing), tuple(unknown), tuple(mismatched)


class DeviceError(VidlocError, RuntimeError):
    """A device, or the process that used it, is lost in the middle of the work."""


class StoreError(VidlocError, OSError):
    """A feature store is damaged, locked or used wrongly."""


class FormatVersionError(StoreError):
    """The store was written in a format that this version does not read."""


class StreamNotFoundError(StoreError, KeyError):
    """The store has no such stream, item or field."""

    # KeyError shows its argument's repr; people should see the sentence.
    __str__ = Exception.__str__


class ProvenanceError(StoreError):
    """Rows of another origin were about to be mixed into one stream."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that lists `known`, led by the name closest to `name` where there is one."""
    choices = sorted(known)
    close = get_close_matches(name, choices, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Known: {', '.join(choices) if choices else '(none)'}."
