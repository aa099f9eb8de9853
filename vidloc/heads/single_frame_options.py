"""The options of SF-Net: a switch for each place where release and paper differ, and what the release has there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from vidloc.heads.base import HeadOptions, Share, numbers
from vidloc.heads.row_counts import Way
from vidloc.heads.single_frame_labels import Supervision
from vidloc.heads.single_frame_losses import Negatives
from vidloc.heads.single_frame_mining import Rule

Variant = Literal["SF", "SFB", "SFBA", "SFBAE"]
RELEASED: Mapping[str, Any] = {
    "actionness_negatives": "last",
    "actionness_floor": 0.1,
    "actionness_log": "bounded",
    "expansion": "release",
    "mask_padding": False,
    "crop_to_end": False,
}


class SFNetOptions(HeadOptions):
    """Options of SF-Net; defaults of the released settings but where the release is at fault."""

    variant: Variant = Field(
        "SFBAE", description="The whole model, or an ablation: single frames, background, actionness, expansion."
    )
    supervision: Supervision = Field(
        "points",
        description="The corpus's single frames; or made from its segments: all rows (full), one row at random, the "
        "centre, or where annotators pause.",
    )
    inputs: Literal["both", "joined", "rgb", "flow"] = Field(
        "both", description="Two streams, one stream whose first half is RGB and second half flow, or one stream alone."
    )
    label: str = Field("", description="Task whose classes are learnt; may be left out where there is only one.")
    batch: int = Field(32, ge=1, description="Items per step.")
    epochs: int = Field(8, ge=1, description="Epochs, of --steps steps each.")
    steps: int = Field(1000, ge=1, description="Steps of an epoch; each takes a batch of items drawn anew.")
    optimizer: Literal["sgd", "adam"] = Field("adam", description="Optimiser.")
    lr: float = Field(1e-4, gt=0, description="Learning rate at the start.")
    lr_drops: Annotated[tuple[Share, ...], BeforeValidator(numbers)] = Field(
        (), description="Shares of all epochs after which the learning rate drops."
    )
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty on the weights, added to the gradient.")
    dropout: float = Field(0.7, ge=0, lt=1, description="Dropout before the classifier.")
    background_ratio: float = Field(7.0, ge=0, description="Background rows mined for each labelled row.")
    background_weight: Literal["outputs", "classes"] = Field(
        "outputs", description="The background's loss is divided by the classes with background (release), or without."
    )
    video_weight: float = Field(1.0, ge=0, description="Weight of the video's loss.")
    actionness_loss_weight: float = Field(1.0, ge=0, description="Weight of the actionness loss.")
    actionness_negatives: Negatives = Field(
        "hardest", description="Rows that show no action: those of highest actionness, or the last ones (release)."
    )
    actionness_floor: float = Field(
        0.0, ge=0, description="Leave the actionness loss out where it is not above this (release: 0.1)."
    )
    actionness_log: Literal["sigmoid", "bounded"] = Field(
        "sigmoid", description="log(1 - actionness), or log(1.001 - actionness) (release)."
    )
    rgb_actionness_input: Literal["rgb", "flow"] = Field(
        "rgb", description="What the RGB stream's actionness reads; flow in checkpoints from before 2022."
    )
    expand_at: Share = Field(0.25, description="Share of all epochs after which labels are grown once.")
    expansion: Rule = Field("paper", description="Which rows take over a label; see single_frame_mining.")
    expansion_score: Literal["logit", "softmax"] = Field("logit", description="Scores that expansion compares.")
    radius: int = Field(3, ge=0, description="Most rows that a label grows to either side.")
    ratio: float = Field(0.95, gt=0, description="Least score of a grown row, as a share of the labelled row's.")
    restart: bool = Field(default=True, description="Begin with fresh weights after labels have grown.")
    crop: int = Field(750, ge=1, description="Most rows of an item in odd steps and the first (GTEA, BEOID: 100).")
    crop_even: int = Field(2800, ge=1, description="Likewise in even steps (GTEA: 150, BEOID: 400).")
    crop_to_end: bool = Field(default=True, description="Crops may reach the last row; the release leaves it out.")
    mask_padding: bool = Field(
        default=True, description="Keep padding from the last row's actionness; the release does not."
    )
    paper_stride_s: float = Field(
        0.64, gt=0, description="Stride that radius, crops and --min-rows are meant for (GTEA: 1.0667, BEOID: 0.5333)."
    )
    row_counts: Way = Field("convert", description="At another stride: convert these numbers, keep them, or refuse.")
    actionness_weight: float = Field(2.0, ge=0, description="Weight of the actionness in a row's score.")
    class_divisor: float = Field(1.5, gt=0, description="Classes above the item's best one, divided by this, are kept.")
    mean_factor: float = Field(1.0, gt=0, description="Segments lie above the mean score of a class times this.")
    min_rows: int = Field(2, ge=1, description="Least rows of a segment.")
    output: Literal["segments", "frames"] = Field(
        "segments", description="Segments of at least --min-rows, or all of them, for their best frame (frame mAP)."
    )
    as_released: bool = Field(default=False, description="Every switch not given as in the released code.")

    @model_validator(mode="before")
    @classmethod
    def _released(cls, values: Any) -> Any:
        wanted = isinstance(values, Mapping) and str(values.get("as_released", "")).lower() in ("true", "yes", "1")
        return {**RELEASED, **values} if wanted else values
