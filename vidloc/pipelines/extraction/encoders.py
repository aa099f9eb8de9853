"""From `--encoder` texts to encoders ready to run: loaded, checked against each other, each with its stream's spec."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import torch
from pydantic import JsonValue

from vidloc import __version__
from vidloc.core.grammar import EncoderPlan, parse_encoder
from vidloc.core.registry import Loaded, load
from vidloc.core.timeline import TimeGrid, center_grid
from vidloc.errors import OptionError, VidlocError
from vidloc.extract.base import AudioInput, ClipInput, Encoder, EncoderInput, EncoderOptions, FrameInput, TextInput
from vidloc.stores.base import StreamSpec

# Libraries whose version may change a row; those that a run did not import took no part in it.
_LIBRARIES = ("numpy", "torch", "torchvision", "torchaudio", "pytorchvideo", "av", "soxr", "transformers",
              "sentence_transformers")  # fmt: skip


@dataclass(frozen=True, eq=False)
class StreamLayout:
    """A stream that a run writes: what its rows are, and where they lie.

    Attributes:
        grid: which windows its encoder is fed; `None` where rows follow annotations (text).
    """

    spec: StreamSpec
    grid: TimeGrid | None

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return self.spec.name


@dataclass(frozen=True, eq=False)
class StreamEncoder(StreamLayout):
    """An encoder, and the stream that takes its rows."""

    encoder: Encoder

    @property
    def layout(self) -> StreamLayout:
        """The same without the encoder, as another process is told of it."""
        return StreamLayout(self.spec, self.grid)


def read_encoder_file(path: Path) -> list[EncoderPlan]:
    """Encoders from a file: one per line as after `--encoder`, `#` begins a comment.

    Raises:
        OptionError: no such file, a line that does not parse, or no encoder in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"plan file {str(path)!r} cannot be read: {error}") from error
    plans = []
    for number, line in enumerate(lines, 1):
        text = line.split("#", 1)[0].strip()
        if text:
            try:
                plans.append(parse_encoder(text))
            except OptionError as error:
                raise OptionError(f"{path}, line {number}: {error}") from error
    if not plans:
        raise OptionError(f"plan file {path} names no encoder; write one per line, as after --encoder.")
    return plans


def build_encoders(plans: Sequence[EncoderPlan], *, stride_s: Fraction, device: torch.device) -> list[StreamEncoder]:
    """Load every encoder with its weights. All names and options are checked before the first weights are read.

    Raises:
        OptionError: no encoder, two that write one stream, or a bad option.
        UnknownNameError: no encoder of that name.
        WeightsError: a checkpoint is missing; the message says how to get it.
    """
    return [
        _bound(plan, found, values, stride_s=stride_s, device=device)
        for plan, found, values in check_encoders(plans, stride_s=stride_s)
    ]


def check_encoders(
    plans: Sequence[EncoderPlan], *, stride_s: Fraction
) -> list[tuple[EncoderPlan, Loaded, EncoderOptions]]:
    """Each encoder's class and options, without reading any weights.

    Raises:
        VidlocError: as `build_encoders`, apart from weights that do not fit.
    """
    if not plans:
        raise OptionError("no encoder was named; add --encoder NAME ('vidloc list encoders' shows them).")
    if stride_s <= 0:
        raise OptionError(f"the stride must be more than 0 s, got {stride_s}.")
    _refuse_doubles(plans)
    loaded = [load("encoders", plan.name) for plan in plans]
    options = [
        found.target.Options.parse(plan.options, where=f"encoder {plan.name!r}")
        for found, plan in zip(loaded, plans, strict=True)
    ]
    for found, values in zip(loaded, options, strict=True):
        found.target.check_weights(values, name=found.name)
    return list(zip(plans, loaded, options, strict=True))


def _refuse_doubles(plans: Sequence[EncoderPlan]) -> None:
    names: dict[str, str] = {}
    for plan in plans:
        if plan.stream in names:
            raise OptionError(
                f"two encoders write the stream {plan.stream!r} ({names[plan.stream]} and {plan.name}). "
                f"Name one of them: --encoder {plan.stream}_2={plan.name}."
            )
        names[plan.stream] = plan.name


def _bound(
    plan: EncoderPlan, found: Loaded, options: EncoderOptions, *, stride_s: Fraction, device: torch.device
) -> StreamEncoder:
    try:
        encoder: Encoder = found.target(options, name=found.name, device=device)
    except VidlocError as error:
        error.add_note(f"(while loading encoder {plan.name!r} for stream {plan.stream!r})")
        raise
    grid = _grid(encoder.input, stride_s)
    return StreamEncoder(_spec(plan, found, encoder, grid), grid, encoder)


def _grid(wanted: EncoderInput, stride_s: Fraction) -> TimeGrid | None:
    match wanted:
        case ClipInput():
            return center_grid(wanted.window_s, stride_s)
        case AudioInput():
            return center_grid(Fraction(wanted.num_samples, wanted.sample_rate_hz), stride_s)
        case FrameInput():
            # A single frame has no length of its own; its row stands for the stride around it.
            return center_grid(stride_s, stride_s)
        case TextInput():
            return None


def _spec(plan: EncoderPlan, found: Loaded, encoder: Encoder, grid: TimeGrid | None) -> StreamSpec:
    template = encoder.stream()
    options = encoder.options.model_dump(mode="json")
    # Told apart by content below; where the file lay on this machine says nothing of the rows.
    options.pop("weights", None)
    return StreamSpec(
        name=plan.stream,
        kind=template.kind,
        fields=template.fields,
        timeline="spans" if grid is None else "grid",
        sampling=_sampling(encoder.input, grid),
        encoder=found.recorded,
        encoder_version=_version_of(found, encoder),
        options=options,
        weights=encoder.weights_name,
        weights_sha256=encoder.weights_sha256,
        source=template.source,
        preprocessing=template.preprocessing,
        vocabulary=template.vocabulary,
        versions=_versions(encoder.device),
    )


def _sampling(wanted: EncoderInput, grid: TimeGrid | None) -> dict[str, JsonValue]:
    if grid is None:
        return {"align": "annotations"}
    rule: dict[str, JsonValue] = {
        "align": "centre",
        "stride_s": str(grid.stride_s),
        "window_s": str(grid.window_s),
    }
    match wanted:
        case ClipInput():
            rule |= {"num_frames": wanted.num_frames, "frame": "last one presented before each cell's midpoint"}
            rule |= {"frames_after_window": wanted.frames_after} if wanted.frames_after else {}
        case FrameInput():
            rule |= {"num_frames": 1, "frame": "last one presented before the centre"}
        case AudioInput():
            rule |= {"num_samples": wanted.num_samples, "sample_rate_hz": wanted.sample_rate_hz}
    return rule


def _version_of(found: Loaded, encoder: Encoder) -> str:
    if found.origin.endswith(".py"):
        # A file being worked on changes without anybody raising a number.
        return "file sha256:" + hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
    if found.origin.startswith("vidloc."):
        return encoder.version
    return f"{found.origin.split(' ', 1)[0]} {encoder.version}"


def _versions(device: torch.device) -> Mapping[str, str]:
    found = {"vidloc": __version__, "python": sys.version.split()[0]}
    for library in _LIBRARIES:
        if library in sys.modules:
            found[library] = metadata.version(library)
    if "cv2" in sys.modules:
        found["opencv"] = sys.modules["cv2"].__version__  # installed under several names
    found["device"] = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    return found
