"""What one stream of a run will get, and its rule of rows in words: windows and strides in seconds and in frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import JsonValue

from vidloc.stores.base import StreamSpec


@dataclass(frozen=True)
class StreamPlan:
    """What one stream will get.

    Attributes:
        num_items: items to do.
        num_rows: estimated rows; exact for text and for rows per segment.
        dense_bytes_per_row: bytes of the fields that every row has once.
        ragged_bytes: bytes per entry, by ragged axis (the regions of a frame); how many there will be is not known.
        num_samples: what the encoder is fed for those rows: one each, or all views of a segment.
    """

    spec: StreamSpec
    num_items: int
    num_rows: int
    dense_bytes_per_row: int
    ragged_bytes: Mapping[str, int]
    num_samples: int

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        spec = self.spec
        return {
            "encoder": spec.encoder,
            "items": self.num_items,
            "rows": self.num_rows,
            "bytes": self.num_rows * self.dense_bytes_per_row,
            "bytes_per_entry": dict(self.ragged_bytes),
            "sampling": dict(spec.sampling),
            "weights": spec.weights,
            "weights_sha256": spec.weights_sha256,
            "licence": spec.source.licence,
            "fields": {name: f.model_dump(mode="json") for name, f in spec.fields.items()},
        }

    def lines(self, fps: Fraction | None, *, missing: bool) -> list[str]:
        """For people.

        Args:
            fps: median rate of the files; `None` where it is not known.
            missing: its weights are.
        """
        spec = self.spec
        stored = ", ".join(f"{name}{f}" for name, f in spec.fields.items())
        halved = any(f.dtype == "float16" for f in spec.fields.values())
        size = f", {self.num_rows * self.dense_bytes_per_row / 1e6:,.1f} MB" if self.dense_bytes_per_row else ""
        size += "".join(
            f", and {size:,} bytes per entry of {axis}" for axis, size in self.ragged_bytes.items() if size > 1
        )
        text = [
            f"  {spec.name} ({spec.encoder}): {self.num_items} items, about {self.num_rows:,} rows{size}",
            f"    {_window(spec, fps)}",
            f"    stored as {stored}" + (" (option dtype=float32 keeps full precision)" if halved else ""),
        ]
        if spec.weights_sha256.startswith("random:"):
            text.append(
                f"    WEIGHTS ARE RANDOM ({spec.weights_sha256}): an untrained network, good for trying things out."
            )
        elif spec.weights_sha256:
            text.append(f"    weights {spec.weights} (sha256 {spec.weights_sha256[:12]}); licence: {_licence(spec)}")
        elif missing:
            text.append(f"    WEIGHTS ARE MISSING, see below; licence: {_licence(spec)}")
        flow = spec.preprocessing.get("flow")
        return [*text, _flow_line(flow)] if isinstance(flow, Mapping) else text


def _flow_line(flow: Mapping[str, JsonValue]) -> str:
    if "bound_px" in flow:
        return f"    optical flow as released, white being {flow['bound_px']:g} pixels"
    sha256 = str(flow.get("weights_sha256", ""))
    if sha256.startswith("random:"):
        return f"    optical flow by {flow['algorithm']}, WHOSE WEIGHTS ARE RANDOM ({sha256})"
    learned = f", weights {flow['weights']} (sha256 {sha256[:12]}); licence: {flow['licence']}" if sha256 else ""
    return f"    optical flow by {flow['algorithm']}{learned}"


def _licence(spec: StreamSpec) -> str:
    return spec.source.licence or "not stated"


def _window(spec: StreamSpec, fps: Fraction | None) -> str:
    """Window and stride in seconds and in frames, and where rows begin and end."""
    rule = spec.sampling
    if rule["align"] == "annotations":
        return "one row per annotated sentence"
    if rule["align"] == "segments":
        of_clip = f" of {float(Fraction(str(rule['window_s']))):.4g} s" if "window_s" in rule else ""
        return f"one row per annotated segment: views {rule['views']} (clips{of_clip} along it x crops of each)"
    rate = fps if rule.get("rate_fps") == "native" else Fraction(str(rule["rate_fps"])) if "rate_fps" in rule else fps
    stride, window = (_length(rule, name, rate) for name in ("stride", "window"))
    if "num_samples" in rule:
        text = f"windows of {window[0]} ({rule['num_samples']} samples at {rule['sample_rate_hz']} Hz)"
    elif rule["num_frames"] == 1:
        text = "one frame"
    else:
        inside = f" from {window[1]}" if window[1] not in ("", str(rule["num_frames"])) else ""
        after = f" and {rule['frames_after_window']} after" if "frames_after_window" in rule else ""
        apart = f", {_length(rule, 'step', rate)[0]} apart" if {"step_s", "step_frames"} & rule.keys() else ""
        text = f"windows of {window[0]} ({rule['num_frames']} frames{inside}{after}{apart})"
    text += f" every {stride[0]}"
    if rate is not None and stride[1]:
        text += f" ({stride[1]} frames at {float(rate):.4g} fps)"
    if "rate_fps" in rule:
        text += "; rate: the file's own" if rule["rate_fps"] == "native" else f"; rate: {rule['rate_fps']} fps"
    if rule["align"] == "start":
        begin = str(rule.get("start_s", rule.get("start_frames")))
        text += "; from the start" if begin == "0" else f"; from {begin}{' s' if 'start_s' in rule else ' frames'}"
        text += f", tail: {rule['tail']}"
    return text


def _length(rule: Mapping[str, JsonValue], name: str, fps: Fraction | None) -> tuple[str, str]:
    """Window or stride in seconds with their unit, and as a number of frames, empty where no rate is known."""
    if f"{name}_frames" not in rule:
        seconds = Fraction(str(rule[f"{name}_s"]))
        return f"{float(seconds):.4g} s", f"{float(seconds * fps):.4g}" if fps else ""
    frames = Fraction(str(rule[f"{name}_frames"]))
    return (f"{float(frames / fps):.4g} s", f"{float(frames):g}") if fps else (f"{float(frames):g} frames", "")
