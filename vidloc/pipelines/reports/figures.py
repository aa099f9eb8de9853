"""The figures of a report, by Bokeh: training curves, confusion of classes, and the lanes of a sample over time.

Names of classes, items and lanes are untrusted text: they go into data that is shown as plain text, never into HTML or
into labels that would be read as formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.layouts import gridplot
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    PlainText,
    Range1d,
    UIElement,
)
from bokeh.models import (
    Span as Rule,
)
from bokeh.palettes import Blues256, Category20_20, Colorblind8
from bokeh.plotting import figure

from vidloc.core.lanes import Bar, Bars, Curves, Lane, Marks
from vidloc.core.timeline import Span
from vidloc.metrics.per_class import ClassTable

_MOST_LEVELS = 4  # bars that overlap are drawn below each other, so many at most
_MOST_CURVES = 5
_MOST_CONFUSED = 14
_LEFT_PX = 190  # of every panel of a sample, so that their seconds are below each other
_GREY, _INK = "#9aa3ad", "#25303b"
_TOOLS = "xpan,xwheel_zoom,box_zoom,reset,save"


class Colours:
    """One colour for each class on the whole page; background and what is no class are grey."""

    def __init__(self, classes: Sequence[str]) -> None:
        names = [name for name in dict.fromkeys(classes) if name != "background"]
        palette = Colorblind8[:7] if len(names) <= 7 else Category20_20
        self._of: dict[str, str] = {name: palette[k % len(palette)] for k, name in enumerate(names)}

    def __contains__(self, label: str) -> bool:
        return label in self._of or label == "background"

    def of(self, label: str) -> str:
        """Colour of a class, or of anything else."""
        return self._of.get(label, _GREY)


def training_curves(curves: Mapping[str, Mapping[int, float]], chosen: int) -> UIElement:
    """Losses in one plot, the learning rate and the other numbers each in their own.

    Args:
        curves: value by epoch of every number.
        chosen: the epoch whose weights were kept.
    """
    losses = {name: values for name, values in curves.items() if name.startswith("loss")}
    groups = [losses] if losses else []
    groups += [{name: values} for name, values in curves.items() if name not in losses]
    plots = [_curve_plot(group, chosen) for group in groups]
    return gridplot([plots[k : k + 3] for k in range(0, len(plots), 3)], toolbar_location=None, merge_tools=False)


def confusion_plot(table: ClassTable) -> UIElement | None:
    """Of the classes that are confused most, what each is taken for; `None` where there is nothing to confuse."""
    pairs = table.confusion
    if pairs is None or len(table.classes) < 2:
        return None
    wrong = pairs - np.diag(pairs.diagonal())
    most = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:_MOST_CONFUSED])
    names, totals = [table.classes[k] for k in most], pairs.sum(axis=1)
    cells: dict[str, list[Any]] = {key: [] for key in ("x", "y", "true", "taken", "count", "share", "ink", "shown")}
    for y, a in enumerate(most):
        for x, b in enumerate(most):
            share = float(pairs[a, b] / totals[a]) if totals[a] else 0.0
            values = (x, y, table.classes[a], table.classes[b], int(pairs[a, b]), share)
            ink, shown = "white" if share > 0.5 else _INK, str(pairs[a, b]) if pairs[a, b] else ""
            for key, value in zip(cells, (*values, ink, shown), strict=True):
                cells[key].append(value)
    side, size = 170 + 34 * len(most), len(most) - 0.5
    plot = figure(width=side + 90, height=side, x_range=(-0.5, size), y_range=(size, -0.5), tools="save")
    colours = LinearColorMapper(palette=Blues256[::-1], low=0, high=1)
    source = ColumnDataSource(cells)
    fill = {"field": "share", "transform": colours}
    drawn = plot.rect("x", "y", 1, 1, source=source, fill_color=fill, line_color="white")
    plot.text("x", "y", "shown", source=source, text_color="ink", text_font_size="11px", text_align="center",
              text_baseline="middle")  # fmt: skip
    facts = [("true", "@true"), ("taken for", "@taken"), ("times", "@count"), ("share of true", "@share{0.0 %}")]
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=facts))
    plot.add_layout(ColorBar(color_mapper=colours, ticker=BasicTicker(desired_num_ticks=5), width=10), "right")
    for axis, title in ((plot.xaxis[0], "taken for"), (plot.yaxis[0], "true class")):
        _named_ticks(axis, dict(enumerate(names)))
        axis.axis_label = title
    plot.xaxis[0].major_label_orientation = math.pi / 4
    plot.grid.visible = False
    return _styled(plot)


def timeline(lanes: Sequence[Lane], span: Span, colours: Colours) -> UIElement:
    """The lanes of one sample below each other, over its seconds."""
    seconds = Range1d(start=span.start_s, end=span.end_s, bounds=(span.start_s, span.end_s))
    strips = [lane for lane in lanes if not isinstance(lane, Curves)]
    panels = [_strips_plot(strips, seconds, colours)] if strips else []
    panels += [_curves_plot(lane, strips, seconds, colours) for lane in lanes if isinstance(lane, Curves)]
    for panel in panels[:-1]:
        panel.xaxis.major_label_text_font_size = "0px"
    panels[-1].xaxis.axis_label = "seconds"
    panels[-1].height += 28
    return gridplot(
        [[panel] for panel in panels], sizing_mode="stretch_width", toolbar_location="right", merge_tools=True
    )


def _curve_plot(curves: Mapping[str, Mapping[int, float]], chosen: int) -> figure:
    names = list(curves)
    rate = names == ["lr"]
    several = len(names) > 1
    plot = figure(width=360, height=250, title="losses" if several else None, tools="hover,save",
                  y_axis_type="log" if rate else "linear", tooltips=[("epoch", "@epoch"), ("", "@name"),
                  ("", "@value{0.000000}")])  # fmt: skip
    for name, colour in zip(names, [*Colorblind8] * len(names), strict=False):
        known = sorted(curves[name].items())
        source = ColumnDataSource(
            {"epoch": [e for e, _ in known], "value": [v for _, v in known], "name": [name] * len(known)}
        )
        label = {"legend_label": name} if several else {}
        plot.line("epoch", "value", source=source, line_width=2, color=colour, **label)
        plot.scatter("epoch", "value", source=source, size=4, color=colour)
    plot.xaxis.axis_label = "epoch"
    if not several:
        plot.yaxis.axis_label = PlainText(text="learning rate" if rate else names[0])
    else:
        plot.legend.background_fill_alpha, plot.legend.label_text_font_size = 0.7, "11px"
        plot.legend.border_line_color = None
    plot.add_layout(Rule(location=chosen, dimension="height", line_color=_GREY, line_dash="dashed"))
    plot.xaxis.ticker = BasicTicker(min_interval=1)
    return _styled(plot)


def _strips_plot(lanes: Sequence[Bars | Marks], seconds: Range1d, colours: Colours) -> figure:
    """Bars and marks, a strip for each level of each lane."""
    keys = ("y", "left", "right", "name", "label", "score", "colour", "alpha", "text", "from", "to")
    bars: dict[str, list[Any]] = {key: [] for key in keys}
    marks: dict[str, list[Any]] = {key: [] for key in ("y", "time", "name", "label", "colour")}
    ticks, y = dict[float, str](), 0.0
    for lane in lanes:
        first = y
        name = lane.name
        if isinstance(lane, Marks):
            for mark in lane.marks:
                values = (y, mark.time_s, name, mark.label, colours.of(mark.label))
                for key, value in zip(marks, values, strict=True):
                    marks[key].append(value)
            y += 1
        else:
            levels, left_out = _levels(lane.bars)
            for level in levels:
                for bar in level:
                    _add_bar(bars, bar, y, name, lane.bars, colours, seconds)
                y += 1
            name += f" ({len(lane.bars) - left_out} of {len(lane.bars)})" if left_out else ""
        ticks[(first + y - 1) / 2] = name
        y += 0.35
    plot = figure(height=round(26 * y) + 24, x_range=seconds, y_range=(y - 0.75, -0.6), tools=_TOOLS)
    if bars["y"]:
        source = ColumnDataSource(bars)
        drawn = plot.hbar(
            "y", height=0.8, left="left", right="right", source=source, fill_color="colour", fill_alpha="alpha",
            line_color="colour",
        )  # fmt: skip
        plot.text("left", "y", "text", source=source, text_font_size="11px", text_baseline="middle", x_offset=4,
                  text_color=_INK)  # fmt: skip
        facts = [("", "@name"), ("class", "@label"), ("from", "@from s"), ("to", "@to s"), ("score", "@score")]
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=facts))
    if marks["y"]:
        drawn = plot.scatter("time", "y", source=ColumnDataSource(marks), size=10, marker="inverted_triangle",
                             fill_color="colour", line_color="white")  # fmt: skip
        facts = [("", "@name"), ("class", "@label"), ("at", "@time{0.00} s")]
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=facts))
    _named_ticks(plot.yaxis[0], ticks)
    plot.ygrid.visible = False
    return _panel(plot)


def _add_bar(
    columns: dict[str, list[Any]], bar: Bar, y: float, name: str, all_bars: Sequence[Bar], colours: Colours,
    seconds: Range1d,
) -> None:  # fmt: skip
    scores = [other.score for other in all_bars if other.score is not None]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    sure = 1.0 if bar.score is None or high == low else (bar.score - low) / (high - low)
    # About 900 pixels of seconds, 6.5 a letter: a name that does not fit is left to the pointer.
    room = bar.span.duration_s / (float(seconds.end) - float(seconds.start)) * 900
    text = bar.label if len(bar.label) * 6.5 + 8 < room else ""
    start, end = bar.span
    score = "" if bar.score is None else f"{bar.score:.3f}"
    values = (y, start, end, name, bar.label, score, colours.of(bar.label), 0.3 + 0.5 * sure, text)
    for key, value in zip(columns, (*values, f"{start:.2f}", f"{end:.2f}"), strict=True):
        columns[key].append(value)


def _levels(bars: Sequence[Bar]) -> tuple[list[list[Bar]], int]:
    """Bars in levels without overlap, the surest first, and how many found no place."""
    levels: list[list[Bar]] = [[]]
    left_out = 0
    for bar in sorted(bars, key=lambda bar: -(bar.score or 0.0)):
        free = next((level for level in levels if not any(_overlap(bar, other) for other in level)), None)
        if free is None and len(levels) < _MOST_LEVELS:
            levels.append(free := [])
        if free is None:
            left_out += 1
        else:
            free.append(bar)
    return levels, left_out


def _overlap(one: Bar, other: Bar) -> bool:
    return one.span.start_s < other.span.end_s and other.span.start_s < one.span.end_s


def _curves_plot(lane: Curves, strips: Sequence[Bars | Marks], seconds: Range1d, colours: Colours) -> figure:
    """The curves of a lane; of many classes those that are true, predicted or highest."""
    names = curve_colours(lane, strips, colours)
    plot = figure(height=120, x_range=seconds, tools=_TOOLS)
    for name, colour in names.items():
        values = np.asarray(lane.values[name], dtype=np.float32)
        source = ColumnDataSource({"time": lane.times_s.astype(np.float32), "value": values,
                                   "name": [name] * len(values)})  # fmt: skip
        width, dash = (1.0, "dashed") if name == "background" else (2.0, "solid")
        plot.line("time", "value", source=source, color=colour, line_width=width, line_dash=dash)
        drawn = plot.scatter("time", "value", source=source, color=colour, size=3)
        facts = [("", "@name"), ("at", "@time{0.00} s"), ("value", "@value{0.000}")]
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=facts))
    if lane.level is not None:
        plot.add_layout(Rule(location=lane.level, dimension="width", line_color=_GREY, line_dash="dotted"))
    count = f" ({len(names)} of {len(lane.values)})" if len(names) < len(lane.values) else ""
    plot.yaxis.axis_label = PlainText(text=_broken(lane.name + count))
    plot.yaxis.ticker = BasicTicker(desired_num_ticks=3)
    plot.yaxis.axis_label_text_font_style = "normal"
    return _panel(plot)


def curve_colours(lane: Curves, lanes: Sequence[Lane], colours: Colours) -> dict[str, str]:
    """The curves of a lane that are drawn, with their colours: those of classes, or of their places in the lane."""
    names = _curves_shown(lane, [other for other in lanes if not isinstance(other, Curves)])
    free = dict(zip(names, [*Colorblind8[:7]] * len(names), strict=False))
    return {name: colours.of(name) if name in colours else free[name] for name in names}


def _curves_shown(lane: Curves, strips: Sequence[Bars | Marks]) -> list[str]:
    named = {bar.label for strip in strips if isinstance(strip, Bars) for bar in strip.bars}
    peaks = {name: float(np.max(values, initial=-np.inf)) for name, values in lane.values.items()}
    first = sorted(peaks, key=lambda name: (name not in named, -peaks[name]))[:_MOST_CURVES]
    return [name for name in lane.values if name in first]


def _broken(text: str) -> str:
    """A name in lines short enough to stand beside a low panel."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        lines[-1:] = [joined] if len(joined) <= 16 or not lines[-1] else [lines[-1], word]
    return "\n".join(lines)


def _named_ticks(axis: Any, names: Mapping[float, str] | Mapping[int, str]) -> None:
    axis.ticker = FixedTicker(ticks=list(names))
    axis.major_label_overrides = {place: PlainText(text=name) for place, name in names.items()}
    axis.major_tick_line_color = None


def _panel(plot: figure) -> figure:
    """A panel of a sample; the room left of all of them is the same."""
    plot.min_border_left, plot.min_border_right = _LEFT_PX, 12
    plot.min_border_top = plot.min_border_bottom = 4
    plot.sizing_mode = "stretch_width"
    return _styled(plot)


def _styled(plot: figure) -> figure:
    plot.outline_line_color = "#dfe3e8"
    plot.grid.grid_line_color = "#eef1f4"
    plot.toolbar.logo = None
    plot.axis.axis_line_color = _GREY
    plot.axis.minor_tick_line_color = None
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_text_color = plot.axis.major_label_text_color = _INK
    plot.axis.axis_label_text_font_size = plot.axis.major_label_text_font_size = "11px"
    return plot
