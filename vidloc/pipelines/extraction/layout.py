"""Which windows each stream's rows take: the option words that every encoder understands, and what they mean for it.

    --encoder i3d:align=start,rate=25,stride=16f,tail=drop
    --encoder slowfast_r101:align=start,rate=30,window=32f,stride=16f,tail=backpad
    --encoder slowfast_r50:align=start,rate=30,window=45f,stride=45f,step=2f,tail=cover

A length is in seconds (`0.5`, `16/30`), or in frames of `rate` (`16f`), which is a constant number of frames per second
or `native`, the file's own. Frames are never re-encoded for it: at a constant rate a window of n frames shows those
that ffmpeg's `fps` filter would put there (`vidloc.core.timeline.frames_at_cells`). At the native rate windows have
another length in every file, and the times of rows are kept per item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, WithJsonSchema, model_validator

from vidloc.core.lengths import SECONDS_SHOWN, Length, read_length
from vidloc.core.options import Options
from vidloc.core.timeline import TimeGrid
from vidloc.core.windows import Tail, Windows
from vidloc.errors import OptionError
from vidloc.extract.base import AudioInput, ClipInput, EncoderInput, FrameInput, Steps, TextInput
from vidloc.extract.track_times import TrackTimes

DEFAULT_STRIDE_S = Fraction(1, 2)

Rate = Fraction | Literal["native"]


def _read_rate(value: object) -> object:
    if value is None or value == "native":
        return value
    try:
        rate = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError("neither a number of frames per second nor native") from None
    if rate <= 0:
        raise ValueError("frames per second must be more than 0")
    return rate


AnyLength = Annotated[Length, BeforeValidator(read_length), WithJsonSchema({"type": "string"})]


class Layout(Options):
    """Words about the windows of rows that every encoder of pictures or sound takes beside its own options."""

    align: Literal["centre", "start"] = Field(
        "centre",
        description="centre: row k is centred at stride/2 + k * stride, whatever the window; start: row k starts at "
        "start + k * stride, as most published features are laid out.",
    )
    stride: AnyLength = Field(
        Length(DEFAULT_STRIDE_S),
        description=f"Between neighbouring rows: {SECONDS_SHOWN}.",
        json_schema_extra={"default": str(DEFAULT_STRIDE_S)},
    )
    window: AnyLength | None = Field(
        None,
        description=f"Length that a clip's frames are spread over: {SECONDS_SHOWN}. By default the encoder's own, or, "
        "where a rate is given, as many frames of it as the clip has; for single frames the stride.",
    )
    start: AnyLength = Field(
        Length(Fraction(0)),
        description="Start of row 0 (align=start); may be below 0.",
        json_schema_extra={"default": "0"},
    )
    tail: Tail | None = Field(
        None,
        description="The last windows (align=start): drop those that reach beyond the end (the default), pad those "
        "centred before it, cover: pad all that begin before it, or backpad: one more that is moved back to end there.",
    )
    rate: Annotated[Rate | None, BeforeValidator(_read_rate)] = Field(
        None,
        description="Frames per second of the constant rate that frames are taken from, or native: those of the file.",
    )
    step: AnyLength | None = Field(
        None,
        description="From each of a clip's frames to the next, beginning with the window's first frame of the rate; "
        "beyond the window its last frame is repeated. By default frames are spread evenly over the window.",
    )
    spare: int = Field(
        0, ge=0, le=1000, description="Frames that must follow a window for tail=drop to keep it (some tools read one)."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(length is not None and length.value <= 0 for length in (self.stride, self.window, self.step)):
            raise ValueError("stride, window and step must be more than 0")
        if self.align == "centre" and (self.tail is not None or self.start.value):
            raise ValueError("tail and start go with align=start; rows on centres end with the last one in the video")
        lengths = [one for one in (self.stride, self.window, self.start, self.step) if one is not None]
        if self.rate is None and (self.spare or any(length.in_frames for length in lengths)):
            raise ValueError("lengths in frames need a rate: add rate=native, or rate=25 for one frame in 1/25 s")
        if self.rate is None and self.step is not None:
            raise ValueError("a step leads from frame to frame of a rate: add rate=native, or rate=25")
        if self.rate == "native" and any(length.value and not length.in_frames for length in lengths):
            raise ValueError("at rate=native lengths are in frames, such as stride=16f")
        if self.spare and self.ends_by != "drop":
            raise ValueError("spare goes with align=start and tail=drop")
        return self

    @property
    def ends_by(self) -> Tail:
        """The rule for the last windows; rows on centres are those of `pad`."""
        return "pad" if self.align == "centre" else self.tail or "drop"


WORDS: tuple[str, ...] = tuple(Layout.model_fields)


@dataclass(frozen=True)
class RowLayout:
    """The layout of one stream: what was asked for, together with what the encoder takes.

    Attributes:
        asked: the words.
        wanted: what each sample must be.
    """

    asked: Layout
    wanted: ClipInput | FrameInput | AudioInput

    @property
    def needs_times(self) -> bool:
        """Whether a video's length and rate must be known before its first row."""
        return not isinstance(self.wanted, AudioInput) and (self.asked.rate is not None or self.asked.ends_by != "pad")

    @property
    def irregular(self) -> bool:
        """Whether rows may lie off a grid, so that each one's span is stored."""
        return self.asked.ends_by == "backpad"

    @property
    def own_window(self) -> bool:
        """Whether a clip spans what the encoder's own options say."""
        wanted, asked = self.wanted, self.asked
        if not isinstance(wanted, ClipInput):
            return True
        return asked.step is None and asked.rate != "native" and self.window_s(None) == wanted.window_s

    def fed(self, wanted: ClipInput | FrameInput, times: TrackTimes | None) -> ClipInput | FrameInput:
        """What the encoder is fed, in the steps that were asked for.

        Args:
            times: as for `windows`.
        """
        if self.asked.step is None or not isinstance(wanted, ClipInput):
            return wanted
        fps = times.fps if times is not None else None
        frame_s = self._seconds(Length(Fraction(1), in_frames=True), fps)
        return replace(wanted, steps=Steps(frame_s, self._seconds(self.asked.step, fps)))

    def window_s(self, fps: Fraction | None) -> Fraction:
        """Length of a window.

        Args:
            fps: the file's own rate, for `rate=native`.
        """
        wanted, asked = self.wanted, self.asked
        if isinstance(wanted, AudioInput):
            return Fraction(wanted.num_samples, wanted.sample_rate_hz)
        if asked.window is not None:
            return self._seconds(asked.window, fps)
        if isinstance(wanted, FrameInput):
            # A single frame has no length of its own; its row stands for the stride around it.
            return self._seconds(asked.stride, fps)
        if asked.rate is not None:
            return self._seconds(Length(Fraction(wanted.num_frames), in_frames=True), fps)
        return wanted.window_s

    def windows(self, times: TrackTimes | None) -> Windows:
        """The windows of one item.

        Args:
            times: of its picture track; needed where `needs_times`.
        """
        asked = self.asked
        fps = times.fps if times is not None else None
        window, stride = self.window_s(fps), self._seconds(asked.stride, fps)
        start = stride / 2 - window / 2 if asked.align == "centre" else self._seconds(asked.start, fps)
        rate = fps if asked.rate == "native" else asked.rate
        slack = 1 / (2 * fps) if fps is not None and rate is None else Fraction(0)
        spare = asked.spare / rate if rate is not None else Fraction(0)
        return Windows(TimeGrid(window, stride, start), asked.ends_by, slack, spare, rate)

    def sampling(self) -> dict[str, JsonValue]:
        """The rule as a stream's provenance keeps it; `words_of` reads it back."""
        asked, wanted = self.asked, self.wanted
        rule: dict[str, JsonValue] = {"align": asked.align}
        if asked.rate == "native":
            window = asked.window or self._native_window()
            rule |= {"stride_frames": str(asked.stride.value), "window_frames": str(window.value)}
            start_s, unit = asked.start.value, "start_frames"
        else:
            rule |= {"stride_s": str(self._seconds(asked.stride, None)), "window_s": str(self.window_s(None))}
            start_s, unit = self._seconds(asked.start, None), "start_s"
        if asked.align == "start":
            rule |= {unit: str(start_s), "tail": asked.ends_by}
        if asked.rate is not None:
            rule["rate_fps"] = str(asked.rate)
        if asked.spare:
            rule["spare_frames"] = asked.spare
        if asked.step is not None:
            native = asked.rate == "native"
            step = asked.step.value if native else self._seconds(asked.step, None)
            rule |= {"step_frames" if native else "step_s": str(step)}
        match wanted:
            case ClipInput():
                stepped = "every step's from the window's first on, beyond the window its last one again"
                frame = "last one presented before each cell's midpoint" if asked.step is None else stepped
                rule |= {"num_frames": wanted.num_frames, "frame": frame}
                rule |= {"frames_after_window": wanted.frames_after} if wanted.frames_after else {}
            case FrameInput():
                rule |= {"num_frames": 1, "frame": "last one presented before the centre"}
            case AudioInput():
                rule |= {"num_samples": wanted.num_samples, "sample_rate_hz": wanted.sample_rate_hz}
        return rule

    def _native_window(self) -> Length:
        if isinstance(self.wanted, ClipInput):
            return Length(Fraction(self.wanted.num_frames), in_frames=True)
        return self.asked.stride

    def _seconds(self, length: Length, fps: Fraction | None) -> Fraction:
        if not length.in_frames:
            return length.value
        rate = fps if self.asked.rate == "native" else self.asked.rate
        if not isinstance(rate, Fraction):
            raise ValueError("a layout in a file's own frames needs the file's rate")
        return length.value / rate


def layout_for(wanted: EncoderInput, own: Mapping[str, Any], run: Mapping[str, Any], *, where: str) -> RowLayout | None:
    """The layout of one encoder's rows; `None` for sentences, which follow the annotations.

    Args:
        own: values by word, as given with the encoder.
        run: those of the whole run, for words that the encoder does not give.
        where: what they belong to, for messages.

    Raises:
        OptionError: a word that does not fit, to the others or to what the encoder takes.
    """
    if isinstance(wanted, TextInput):
        if own:
            raise OptionError(
                f"{where} takes sentences, whose rows follow the annotations; leave out {', '.join(own)}."
            )
        return None
    if own.get("align", run.get("align")) == "centre" and "align" in own:
        run = {word: value for word, value in run.items() if word != "tail"}
    layout = Layout.parse({**run, **own}, where=where)
    if isinstance(wanted, AudioInput) and (layout.rate is not None or layout.window is not None):
        raise OptionError(
            f"{where}: rate and window are for frames; it takes {wanted.num_samples} samples of sound per row. "
            "Give its stride in seconds."
        )
    if layout.step is not None and not (isinstance(wanted, ClipInput) and not wanted.frames_after):
        raise OptionError(
            f"{where}: step is for clips of a window's own frames. Leave it out: frames of motion follow one another, "
            "and a single frame is alone."
        )
    return RowLayout(layout, wanted)


def words_of(sampling: Mapping[str, JsonValue]) -> dict[str, str]:
    """The words that lay rows out as a stream's provenance says."""
    words = {word: str(sampling[word]) for word in ("align", "tail") if word in sampling}
    for word in ("stride", "window", "start", "step"):
        if f"{word}_frames" in sampling:
            words[word] = f"{sampling[f'{word}_frames']}f"
        elif f"{word}_s" in sampling:
            words[word] = str(sampling[f"{word}_s"])
    if "num_samples" in sampling:
        words.pop("window", None)
    if "rate_fps" in sampling:
        words["rate"] = str(sampling["rate_fps"])
    if "spare_frames" in sampling:
        words["spare"] = str(sampling["spare_frames"])
    return words
