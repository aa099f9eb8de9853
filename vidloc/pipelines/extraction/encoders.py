"""From `--encoder` texts to encoders ready to run: loaded, checked against each other, each with its stream's spec."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

import torch

from vidloc import __version__
from vidloc.core.grammar import EncoderPlan, parse_encoder
from vidloc.core.registry import Loaded, load
from vidloc.errors import OptionError, VidlocError, WeightsError
from vidloc.extract.base import Encoder, EncoderOptions
from vidloc.extract.weights import RANDOM_PREFIX
from vidloc.pipelines.extraction.layout import WORDS, RowLayout, layout_for
from vidloc.pipelines.extraction.segment_views import SegmentLayout, Views, segment_layout
from vidloc.stores.base import StreamSpec

# Libraries whose version may change a row; those that a run did not import took no part in it.
_LIBRARIES = ("numpy", "torch", "torchvision", "torchaudio", "pytorchvideo", "av", "soxr", "transformers",
              "sentence_transformers")  # fmt: skip


@dataclass(frozen=True, eq=False)
class StreamLayout:
    """A stream that a run writes: what its rows are, and where they lie.

    Attributes:
        rows: which windows its encoder is fed; `None` where rows follow annotations (text).
    """

    spec: StreamSpec
    rows: RowLayout | SegmentLayout | None

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return self.spec.name

    @property
    def of_sample(self) -> StreamSpec:
        """The spec that the answer to one sample has: a row, or one view of it."""
        if not isinstance(self.rows, SegmentLayout):
            return self.spec
        return self.spec.model_copy(update={"fields": self.rows.fields_of_view(self.spec.fields)})


@dataclass(frozen=True, eq=False)
class StreamEncoder(StreamLayout):
    """An encoder, and the stream that takes its rows."""

    encoder: Encoder

    @property
    def layout(self) -> StreamLayout:
        """The same without the encoder, as another process is told of it."""
        return StreamLayout(self.spec, self.rows)


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


def build_encoders(
    plans: Sequence[EncoderPlan],
    *,
    stride_s: Fraction,
    device: torch.device,
    layout: Mapping[str, str] = MappingProxyType({}),
    views: Views | None = None,
) -> list[StreamEncoder]:
    """Load every encoder with its weights. All names and options are checked before the first weights are read.

    Args:
        stride_s: between neighbouring rows, for encoders that do not say otherwise.
        layout: further words of `vidloc.pipelines.extraction.layout` for the same.
        views: rows per annotated segment with these views, in place of windows over the whole item.

    Raises:
        OptionError: no encoder, two that write one stream, or a bad option.
        UnknownNameError: no encoder of that name.
        WeightsError: a checkpoint is missing; the message says how to get it.
    """
    return [one.bound(device) for one in check_encoders(plans, stride_s=stride_s, layout=layout, views=views)]


def check_encoders(
    plans: Sequence[EncoderPlan],
    *,
    stride_s: Fraction,
    layout: Mapping[str, str] = MappingProxyType({}),
    views: Views | None = None,
) -> list[ChosenEncoder]:
    """Each encoder's class and options, without reading any weights.

    Raises:
        VidlocError: as `build_encoders`, apart from weights that do not fit.
    """
    chosen = choose_encoders(plans, stride_s=stride_s, layout=layout, views=views)
    for one in chosen:
        one.check_weights()
    return chosen


def preview_encoders(
    plans: Sequence[EncoderPlan],
    *,
    stride_s: Fraction,
    device: torch.device,
    layout: Mapping[str, str] = MappingProxyType({}),
    views: Views | None = None,
) -> tuple[list[StreamEncoder], dict[str, str]]:
    """Like `build_encoders` for a plan: an encoder whose weights are missing stands there untrained.

    Returns:
        The encoders, and by stream why weights are missing; an encoder that cannot be built without them is in the
        latter only. Specs of such streams name no weights.

    Raises:
        VidlocError: as `build_encoders`, apart from missing weights.
    """
    ready, missing = [], dict[str, str]()
    for one in choose_encoders(plans, stride_s=stride_s, layout=layout, views=views):
        try:
            one.check_weights()
        except WeightsError as error:
            missing[one.plan.stream] = str(error)
            ready += one.untrained(device)
        else:
            ready.append(one.bound(device))
    return ready, missing


@dataclass(frozen=True, eq=False)
class ChosenEncoder:
    """An encoder whose name and options are checked, before its weights are looked for.

    Attributes:
        words: layout words given with it.
        run: layout words of the whole run.
        views: of segments, where rows answer those.
    """

    plan: EncoderPlan
    found: Loaded
    options: EncoderOptions
    words: Mapping[str, str]
    run: Mapping[str, str]
    views: Views | None = None

    def check_weights(self) -> None:
        """Make sure that its weights are at hand.

        Raises:
            WeightsError: a file is missing; the message has the line that gets it.
        """
        self.found.target.check_weights(self.options, name=self.found.name)

    def bound(self, device: torch.device) -> StreamEncoder:
        """The encoder with its weights loaded, and its stream's spec.

        Raises:
            WeightsError: the checkpoint does not fit.
            OptionError: the layout does not fit what the encoder takes.
        """
        plan = self.plan
        try:
            encoder: Encoder = self.found.target(self.options, name=self.found.name, device=device)
        except VidlocError as error:
            error.add_note(f"(while loading encoder {plan.name!r} for stream {plan.stream!r})")
            raise
        where = f"encoder {plan.name!r}"
        rows: RowLayout | SegmentLayout | None
        if self.views is None:
            rows = layout_for(encoder.input, self.words, self.run, where=where)
        else:
            rows = segment_layout(encoder.input, encoder.stream().fields, self.views, where=where)
        return StreamEncoder(_spec(plan, self.found, encoder, rows), rows, encoder)

    def untrained(self, device: torch.device) -> list[StreamEncoder]:
        """The encoder with random weights, its spec naming none, to tell the shape of its rows; none if it has no such.

        Raises:
            OptionError: the layout does not fit what the encoder takes.
        """
        options = self.options.model_copy(update={"weights": f"{RANDOM_PREFIX}0"})
        try:
            made = replace(self, options=options).bound(device)
        except WeightsError:
            return []
        return [replace(made, spec=made.spec.model_copy(update={"weights": "", "weights_sha256": ""}))]


def choose_encoders(
    plans: Sequence[EncoderPlan], *, stride_s: Fraction, layout: Mapping[str, str], views: Views | None = None
) -> list[ChosenEncoder]:
    """Find every encoder and check its options; no weights are looked for. For arguments and errors see above."""
    if not plans:
        raise OptionError("no encoder was named; add --encoder NAME ('vidloc list encoders' shows them).")
    if stride_s <= 0:
        raise OptionError(f"the stride must be more than 0 s, got {stride_s}.")
    _refuse_doubles(plans)
    run = {"stride": str(stride_s), **layout}
    return [_chosen(plan, load("encoders", plan.name), run, views) for plan in plans]


def _chosen(plan: EncoderPlan, found: Loaded, run: Mapping[str, str], views: Views | None) -> ChosenEncoder:
    where = f"encoder {plan.name!r}"
    model: type[EncoderOptions] = found.target.Options
    if taken := [word for word in WORDS if word in model.model_fields]:
        raise OptionError(
            f"{where} has an option named {taken[0]!r}, which every encoder has for the layout of its rows. "
            f"Rename it in {found.origin}."
        )
    words = {name: value for name, value in plan.options.items() if name in WORDS}
    own = {name: value for name, value in plan.options.items() if name not in WORDS}
    if words and views is not None:
        raise OptionError(f"{where}: rows per segment have no layout of windows; leave out {', '.join(words)}.")
    try:
        options = model.parse(own, where=where)
    except OptionError as error:
        if any(name not in model.model_fields for name in own):
            error.add_note(f"(words of the layout, for every encoder: {', '.join(WORDS)})")
        raise
    return ChosenEncoder(plan, found, options, words, run, views)


def _refuse_doubles(plans: Sequence[EncoderPlan]) -> None:
    names: dict[str, str] = {}
    for plan in plans:
        if plan.stream in names:
            raise OptionError(
                f"two encoders write the stream {plan.stream!r} ({names[plan.stream]} and {plan.name}). "
                f"Name one of them: --encoder {plan.stream}_2={plan.name}."
            )
        names[plan.stream] = plan.name


def _spec(plan: EncoderPlan, found: Loaded, encoder: Encoder, layout: RowLayout | SegmentLayout | None) -> StreamSpec:
    template = encoder.stream()
    options = encoder.options.model_dump(mode="json")
    # Told apart by content below; where the file lay on this machine says nothing of the rows.
    options.pop("weights", None)
    preprocessing = dict(template.preprocessing)
    if isinstance(layout, RowLayout) and not layout.own_window and "fps" in preprocessing:
        preprocessing["fps"] = "that of the layout (sampling), not of the options"
    return StreamSpec(
        name=plan.stream,
        kind=template.kind,
        fields=layout.fields(template.fields) if isinstance(layout, SegmentLayout) else template.fields,
        timeline="grid" if isinstance(layout, RowLayout) and not layout.irregular else "spans",
        sampling={"align": "annotations"} if layout is None else layout.sampling(),
        encoder=found.recorded,
        encoder_version=_version_of(found, encoder),
        options=options,
        weights=encoder.weights_name,
        weights_sha256=encoder.weights_sha256,
        source=template.source,
        preprocessing=preprocessing,
        vocabulary=template.vocabulary,
        versions=_versions(encoder.device),
    )


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
