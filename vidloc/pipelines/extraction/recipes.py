"""Recipes: the encoders and layouts of published feature sets, and those that the heads of a benchmark expect, by name.

    vidloc extract --recipe ego4d_slowfast --videos list.csv --store feats.zarr
    vidloc extract --recipe dataset --dataset epic --root EPIC/ --store feats.zarr

A recipe is nothing but `--encoder` texts that somebody has looked up: what it does can be typed, and shows in the plan
and in every stream's provenance. Weights and further options are added by naming the same stream:
`--recipe ego4d_slowfast --encoder slowfast_r101:weights=mine.pyth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vidloc.core.grammar import EncoderPlan, parse_encoder
from vidloc.errors import OptionError, UnknownNameError, did_you_mean

OF_DATASET = "dataset"


@dataclass(frozen=True)
class Recipe:
    """One named set of encoders with their layouts.

    Attributes:
        summary: what it makes, in a line.
        encoders: as after `--encoder`.
        source: whose layout it is.
        differs: where rows depart from the original; empty where nothing is known to.
        datasets: names of the corpora whose heads expect these streams.
    """

    name: str
    summary: str
    encoders: tuple[str, ...]
    source: str
    differs: str = ""
    datasets: tuple[str, ...] = ()

    @property
    def plans(self) -> list[EncoderPlan]:
        """Its encoders, parsed."""
        return [parse_encoder(text) for text in self.encoders]

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return asdict(self)


def _i3d_of_sf_net(name: str, fps: int) -> Recipe:
    return Recipe(
        name,
        f"I3D of pictures and of TV-L1 flow on 16 frames at {fps} fps, every 16.",
        tuple(f"{stream}:align=start,rate={fps},stride=16f,tail=drop" for stream in ("i3d", "i3d_flow")),
        "Ma et al. SF-Net: Single-Frame Supervision for Temporal Action Localization. ECCV 2020.",
        datasets=(name,),
    )


_ALL = (
    Recipe(
        "i3d_finspire13",
        "I3D on 16 frames of the file's own, every 4.",
        ("i3d:align=start,rate=native,stride=4f,tail=drop",),
        "github.com/Finspire13/pytorch-i3d-feature-extraction; ActionFormer's features of THUMOS14.",
    ),
    Recipe(
        "slowfast_epic100",
        "SlowFast on 32 frames at 30 fps, every 16.",
        ("slowfast_r50:align=start,rate=30,window=32f,stride=16f,tail=drop",),
        "ActionFormer's and OpenTAD's features of EPIC-KITCHENS-100.",
        differs="their extraction code is not published: the last window is assumed to be left out, and their "
        "weights, fine-tuned on EPIC-KITCHENS, are given with --encoder slowfast_r50:weights=FILE",
    ),
    Recipe(
        "ego4d_slowfast",
        "SlowFast R101 on 32 frames at 30 fps, every 16, the last window moved back.",
        ("slowfast_r101:align=start,rate=30,window=32f,stride=16f,tail=backpad",),
        "github.com/facebookresearch/Ego4d, features slowfast8x8_r101_k400.",
    ),
    Recipe(
        "video_features_i3d",
        "I3D on 64 frames of the file's own, every 64, with that tool's arithmetic.",
        ("i3d:variant=video_features,num_frames=64,align=start,rate=native,stride=64f,tail=drop,spare=1",),
        "github.com/v-iashin/video_features, I3D without a given rate.",
        differs="the crop may lie one pixel off; its timestamps_ms are the time of a window's last frame",
    ),
    Recipe(
        "hero_slowfast",
        "SlowFast on every second frame at 30 fps of each cell of 1.5 s, its last frame repeated.",
        ("slowfast_r50:short_side_px=224,crop_px=224,align=start,rate=30,window=45f,stride=45f,step=2f,tail=cover",),
        "Li et al. HERO: Hierarchical Encoder for Video+Language Omni-representation Pre-training. EMNLP 2020; "
        "github.com/linjieli222/HERO_Video_Feature_Extractor.",
        differs="of files of another rate than 30 fps the original takes every (rate / 15)th frame of the 30; it "
        "resizes with FFmpeg, and fills a last cell up with whole seconds. For its cells of 2 s add --encoder "
        "slowfast_r50:window=60f,stride=60f",
    ),
    Recipe(
        "hara_3d",
        "Hara's 3D ResNet-34 on 16 frames of the file's own, every 16.",
        ("hara_r34:align=start,rate=native,stride=16f,tail=drop,spare=1",),
        "Hara et al. CVPR 2018; github.com/kenshohara/video-classification-3d-cnn-pytorch.",
        differs="its segments count frames from 1; other networks of the family are given by their names",
    ),
    Recipe(
        "mmaction2_activitynet",
        "ResNet-50 of temporal segment networks on the middle one of every 16 frames of the file.",
        ("tsn_rgb_r50:crop_px=256,align=start,start=8f,rate=native,window=1f,stride=16f,tail=pad",),
        "github.com/open-mmlab/mmaction2, tools/data/activitynet: features of BMN and BSN.",
        differs="a video of fewer than 9 frames has a row of its last one; the original reads frames from JPEG files "
        "and resizes them with OpenCV",
    ),
    Recipe(
        "mstcn_i3d",
        "I3D on the 21 frames around every frame of the file.",
        ("i3d:num_frames=21,align=centre,rate=native,stride=1f",),
        "Farha, Gall. MS-TCN: Multi-Stage Temporal Convolutional Network for Action Segmentation. CVPR 2019.",
        differs="beyond the ends the first and the last frame are repeated, where the original has zero frames: "
        "10 rows at either end differ",
    ),
    Recipe(
        "milnce_coot",
        "S3D of MIL-NCE on 32 frames at 10 fps, every 16.",
        ("s3d_milnce:align=start,rate=10,stride=16f,tail=pad",),
        "Ging et al. COOT: Cooperative Hierarchical Transformer for Video-Text Representation Learning. NeurIPS 2020.",
        differs="how the last window ends is not published; it is padded",
    ),
    Recipe(
        "vggish_continuous",
        "VGGish every 0.96 s over the whole track.",
        ("vggish:align=start,stride=0.96,tail=drop",),
        "Hershey et al. CNN Architectures for Large-Scale Audio Classification. ICASSP 2017; AudioSet's release.",
    ),
    _i3d_of_sf_net("thumos14", 25),
    _i3d_of_sf_net("gtea", 15),
    _i3d_of_sf_net("beoid", 30),
    Recipe(
        "ave",
        "VGG-19 maps (7 x 7 x 512, mean of 16 frames) and VGGish, one row per second.",
        (
            "vgg19:tap=pool5,variant=caffe,frame=stretch,num_frames=16,window_s=1,align=start,stride=1,tail=pad",
            "vggish:align=start,stride=1,tail=pad",
        ),
        "Tian et al. Audio-Visual Event Localization in Unconstrained Videos. ECCV 2018.",
        differs="a second's 16 frames are those of its cells' midpoints, where the original takes them from the cells' "
        "starts; sound is resampled as one track and not second by second",
        datasets=("ave",),
    ),
    Recipe(
        "epic",
        "SlowFast, objects and sound around shared centres, every 0.5 s.",
        (
            "slowfast_r50:window_s=16/15,align=centre,stride=0.5",
            "fasterrcnn:align=centre,stride=0.5",
            "vggish:align=centre,stride=0.5",
        ),
        "Wang et al. Symbiotic Attention with Privileged Information. AAAI 2020 (half a second between frames of "
        "objects); Damen et al. Rescaling Egocentric Vision. IJCV 2022 (windows of SlowFast).",
        differs="the SlowFast of EPIC-KITCHENS-100 and a detector of its nouns are given by their weights",
        datasets=("epic", "epic55", "epic100"),
    ),
    Recipe(
        "egtea",
        "SlowFast and objects around shared centres, every 0.5 s.",
        ("slowfast_r50:align=centre,stride=0.5", "fasterrcnn:align=centre,stride=0.5"),
        "Wang et al. Symbiotic Attention with Privileged Information. AAAI 2020.",
        differs="SlowFast in place of networks fine-tuned on EGTEA, which can be given by their weights",
        datasets=("egtea",),
    ),
    Recipe(
        "charades_sta",
        "I3D on 16 frames at 24 fps, every 16.",
        ("i3d:align=start,rate=24,stride=16f,tail=drop",),
        "Gao et al. TALL: Temporal Activity Localization via Language Query. ICCV 2017 (units of 16 frames).",
        differs="I3D in place of C3D fc6, which no encoder here has",
        datasets=("charades_sta",),
    ),
    Recipe(
        "tacos",
        "I3D on 16 frames of the file's own, every 16.",
        ("i3d:align=start,rate=native,stride=16f,tail=drop",),
        "Gao et al. TALL: Temporal Activity Localization via Language Query. ICCV 2017 (units of 16 frames).",
        differs="I3D in place of C3D fc6, which no encoder here has",
        datasets=("tacos",),
    ),
    Recipe(
        "didemo",
        "VGG-16 fc7 of every 5th frame at 25 fps.",
        ("vgg16:tap=fc7,variant=caffe,align=start,rate=25,stride=5f,start=-2f,tail=pad",),
        "Hendricks et al. Localizing Moments in Video with Natural Language. ICCV 2017.",
        differs="how frames were resized is not published; windows are laid around frames 0, 5, 10, ...",
        datasets=("didemo",),
    ),
    Recipe(
        "howto100m",
        "ResNet-152 of the whole frame, one per second, and 3D ResNeXt-101 on 16 frames at 24 fps, every 16.",
        (
            "resnet152:frame=whole,align=start,rate=1,stride=1f,tail=pad",
            "hara_resnext101:variant=howto100m,align=start,rate=24,stride=16f,tail=cover",
        ),
        "Miech et al. HowTo100M. ICCV 2019; github.com/antoine77340/video_feature_extractor.",
        differs="rows are not L2-normalised; the last clip is filled up with its last frame, where the original has "
        "black ones, and frames are resized otherwise than by FFmpeg",
        datasets=("howto100m",),
    ),
    Recipe(
        "crosstask",
        "I3D, ResNet-152 and VGGish, each once per second.",
        tuple(f"{name}:align=centre,stride=1" for name in ("i3d", "resnet152", "vggish")),
        "Zhukov et al. Cross-Task Weakly Supervised Learning from Instructional Videos. CVPR 2019.",
        differs="where the windows of the release lie within a second is not published; these are in its middle",
        datasets=("crosstask",),
    ),
)
RECIPES = {recipe.name: recipe for recipe in sorted(_ALL, key=lambda recipe: recipe.name)}


def find_recipe(name: str, *, dataset: str | None) -> Recipe:
    """A recipe by name; `dataset` stands for that of the run's corpus.

    Args:
        dataset: name of the run's corpus, `None` where it has none.

    Raises:
        UnknownNameError: no such recipe, or none for the corpus.
        OptionError: `dataset` was asked for in a run without a corpus.
    """
    if name != OF_DATASET:
        if name not in RECIPES:
            raise UnknownNameError(f"there is no recipe called {name!r}. {did_you_mean(name, RECIPES)}")
        return RECIPES[name]
    if dataset is None:
        raise OptionError("--recipe dataset is the recipe of the run's corpus: add --dataset NAME, or name a recipe.")
    found = recipe_of_dataset(dataset)
    if found is None:
        raise UnknownNameError(f"there is no recipe for the dataset {dataset!r}; 'vidloc list recipes' shows all.")
    return found


def recipe_of_dataset(name: str) -> Recipe | None:
    """The recipe whose streams the heads of a corpus expect, `None` where there is none."""
    return next((recipe for recipe in RECIPES.values() if name in recipe.datasets), None)


def with_options(recipe: Recipe, given: Sequence[EncoderPlan]) -> list[EncoderPlan]:
    """A recipe's encoders followed by others; one that names a stream of the recipe adds its options to it.

    Raises:
        OptionError: one names a stream of the recipe, but another encoder.
    """
    plans = {plan.stream: plan for plan in recipe.plans}
    further = []
    for plan in given:
        mine = plans.get(plan.stream)
        if mine is None:
            further.append(plan)
        elif mine.name != plan.name:
            raise OptionError(
                f"the recipe {recipe.name} makes the stream {mine.stream!r} with {mine.name}, not with {plan.name}. "
                f"Give the other one a name of its own: --encoder {mine.stream}_2={plan.name}."
            )
        else:
            plans[plan.stream] = EncoderPlan(plan.stream, plan.name, {**mine.options, **plan.options})
    return [*plans.values(), *further]
