"""The network of SF-Net: two streams of equal shape, each with classes and actionness of every row, and their fusion.

Layers have the names of the release, so they are those of the head itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidloc.errors import OptionError
from vidloc.heads.base import Batch, Head, StreamNeed
from vidloc.heads.layers import only_task
from vidloc.heads.single_frame_labels import row_borders
from vidloc.heads.single_frame_options import SFNetOptions


@dataclass(frozen=True, eq=False)
class Outputs:
    """Logits by stream and `fused`: of classes `(batch, rows, outputs)`, of actionness `(batch, rows)`."""

    classes: Mapping[str, Tensor]
    actionness: Mapping[str, Tensor]


class Convolutions(nn.Module):
    """Two convolutions along time over three rows each; see `mask_padding` for what they see beyond the last row."""

    def __init__(self, width: int, *, mask_padding: bool) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(nn.Sequential(nn.Conv1d(width, width, kernel_size=3, padding=1), nn.ReLU()) for _ in range(2))
        )
        self.mask_padding = mask_padding

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """`(batch, rows, width)` in, the same out."""
        hidden = features.transpose(1, 2)
        for layer in self.layer:
            # After the first layer a padded row holds its bias, which the second would mix into the last real row.
            hidden = layer(hidden)
            hidden = hidden * mask.unsqueeze(1) if self.mask_padding else hidden
        return hidden.transpose(1, 2)


class SingleFrameNetwork(Head):
    """Layers and their logits; a head made of them says how they are trained and what their logits mean."""

    needs: ClassVar[Mapping[str, StreamNeed]] = {
        "rgb": StreamNeed(("clip", "audio")),
        "flow": StreamNeed(("clip", "audio")),
        "joined": StreamNeed(("clip", "audio")),
    }

    options: SFNetOptions
    mul_r: nn.Parameter
    mul_f: nn.Parameter
    act_r: nn.Parameter
    act_f: nn.Parameter

    def __init__(self, options: SFNetOptions, dims: Mapping[str, int], labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(options, dims, labels)
        self.label_task = only_task("sfnet", options.label, labels)
        self.classes = self.labels[self.label_task]
        self.background = int(options.variant != "SF")
        self.has_actionness = options.variant in ("SFBA", "SFBAE")
        self.widths = _widths(options, dims)
        num_outputs = len(self.classes) + self.background
        for name, width in self.widths.items():
            layers = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2)]
            self.add_module(f"{name}_cls_layer", nn.Sequential(*layers))
            self.add_module(f"{name}_classifier", nn.Linear(width, num_outputs))
            self.register_parameter(f"mul_{name[0]}", nn.Parameter(torch.empty(num_outputs)))
            if self.has_actionness:
                self.add_module(f"{name}_act_layer", Convolutions(width, mask_padding=options.mask_padding))
                self.add_module(f"{name}_action", nn.Linear(width, 1))
                self.register_parameter(f"act_{name[0]}", nn.Parameter(torch.empty(1)))
        self.dropout = nn.Dropout(options.dropout)
        self.initialise()

    @classmethod
    def needs_for(cls, options: SFNetOptions) -> Mapping[str, StreamNeed]:
        """The roles of the inputs chosen."""
        roles = ("rgb", "flow") if options.inputs == "both" else (options.inputs,)
        return {role: cls.needs[role] for role in roles}

    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> Outputs:
        """Logits of every row.

        Args:
            features: `(batch, rows, width)` by stream.
            mask: `(batch, rows)` true for rows.
        """
        classes, actionness = {}, {}
        for name in self.widths:
            hidden = self.dropout(self.get_submodule(f"{name}_cls_layer")(features[name]))
            classes[name] = self.get_submodule(f"{name}_classifier")(hidden)
            if self.has_actionness:
                source = self.options.rgb_actionness_input if name == "rgb" else name
                hidden = self.get_submodule(f"{name}_act_layer")(features[source], mask)
                actionness[name] = self.get_submodule(f"{name}_action")(hidden).squeeze(-1)
        classes["fused"] = self._fused("mul", classes)
        if self.has_actionness:
            actionness["fused"] = self._fused("act", actionness)
        return Outputs(classes, actionness)

    def inputs(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, list[NDArray[np.float64]]]:
        """Features by stream, which rows exist, and the borders of the rows of each item."""
        rows = list(batch.rows.values())
        first = rows[0]
        spans, masks = first.spans.cpu().numpy(), first.mask.cpu().numpy()
        for other in rows[1:]:
            if not (torch.equal(first.mask, other.mask) and torch.equal(first.spans, other.spans)):
                raise OptionError(
                    "the streams of rgb and flow have rows at different times. Extract both in one run, or use one of "
                    "them: --inputs rgb."
                )
        borders = [row_borders(windows[mask]) for windows, mask in zip(spans, masks, strict=True)]
        features = {role: part.features for role, part in batch.rows.items()}
        if "joined" in features:
            features = dict(zip(("rgb", "flow"), features["joined"].chunk(2, dim=-1), strict=True))
        return features, first.mask, borders

    def _fused(self, scale: str, scores: Mapping[str, Tensor]) -> Tensor:
        return sum_of(self.get_parameter(f"{scale}_{name[0]}") * scores[name] for name in self.widths)

    def initialise(self) -> None:
        """Fresh weights, and the scales of the fusion at their start."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters(recurse=False):
            nn.init.constant_(parameter, 1.0 if name.startswith("mul") else 0.0)


def sum_of(terms: Iterator[Tensor] | Sequence[Tensor]) -> Tensor:
    """Sum of at least one tensor."""
    first, *others = terms
    for term in others:
        first = first + term
    return first


def _widths(options: SFNetOptions, dims: Mapping[str, int]) -> dict[str, int]:
    """Width by stream."""
    if options.inputs == "joined":
        if dims["joined"] % 2:
            raise OptionError(
                f"--inputs joined needs rows of an even width, RGB and flow; these have {dims['joined']}."
            )
        return dict.fromkeys(("rgb", "flow"), dims["joined"] // 2)
    widths = {name: dims[name] for name in ("rgb", "flow") if name in dims}
    if options.rgb_actionness_input == "flow" and len({*widths.values()}) + (len(widths) < 2) > 1:
        raise OptionError("--rgb-actionness-input flow needs both streams, of one width.")
    return widths
