"""Faster R-CNN against torchvision's own detector called plainly, and the rules that choose boxes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2
from torchvision.ops import FrozenBatchNorm2d, box_iou

from vidloc.core.rows import Rows
from vidloc.errors import MediaError, OptionError, WeightsError
from vidloc.extract import fasterrcnn
from vidloc.extract.base import Sample
from vidloc.extract.fasterrcnn import VOCABULARY, FasterRCNNOptions
from vidloc.extract.regions import SelectionRule, select
from vidloc.extract.weights import sha256_of
from vidloc.testing import deterministic_fill
from vidloc.testing.deterministic_fill import filled

SIDE_PX = 128  # of the network's picture; keeps the tests short
MANY = {"score_min": 0.01}  # a network without training is never sure


def frame(name, height_px=192, width_px=256):
    pixels = deterministic_fill.frames(name, 1, height_px, width_px)[0]
    return Sample((Fraction(0), Fraction(1, 2)), pixels, np.array([0.25]), (width_px, height_px))


def tame(state):
    """A filled state whose activations keep their size over 16 residual blocks, and whose boxes stay in the picture."""
    calmer = {"bn3.weight": 0.2, "bbox_pred.weight": 0.05, "cls_logits.weight": 0.05, "cls_score.weight": 0.05}
    scale = {name: next((s for end, s in calmer.items() if name.endswith(end)), 1.0) for name in state}
    return {name: tensor * scale[name] if scale[name] != 1 else tensor for name, tensor in filled(state).items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "fasterrcnn_resnet50_fpn_coco.pth"
    torch.save(tame(fasterrcnn.build("v1").state_dict()), path)
    return path


@pytest.fixture(scope="module")
def plain(checkpoint):
    """torchvision's detector with the same weights; its norms are not folded."""
    network = fasterrcnn.build("v1", min_size=SIDE_PX).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    return quick(network)


@pytest.fixture(scope="module")
def encode(checkpoint, build_encoder):
    built = {}

    def run(*samples, **options):
        key = tuple(sorted(options.items()))
        if key not in built:
            built[key] = build_encoder("fasterrcnn", weights=checkpoint, min_size=SIDE_PX, **MANY | options)
            quick(built[key].network)
        return built[key].encode(samples)

    return run


@pytest.fixture(scope="module")
def encoder(checkpoint, build_encoder):
    built = build_encoder("fasterrcnn", weights=checkpoint, min_size=SIDE_PX, **MANY)
    quick(built.network)
    return built


def quick(network):
    """100 proposals instead of 1000: the box head is most of the work on a small picture."""
    network.rpn._post_nms_top_n = {"training": 100, "testing": 100}
    return network


def overlaps(boxes):
    return torch.triu(box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)), diagonal=1)


def in_pixels(rows, sample):
    height, width = sample.data.shape[:2]
    return rows.fields["boxes"] * np.array([width, height, width, height], np.float32)


class TestNetwork:
    def test_13_frozen_norms_without_epsilon(self):
        network = fasterrcnn.build("v1")
        norms = [m for m in network.modules() if isinstance(m, FrozenBatchNorm2d)]
        assert len(network.state_dict()) == 295
        assert len(norms) == 53
        assert {norm.eps for norm in norms} == {0.0}
        assert len(fasterrcnn.build("v2").state_dict()) == 404

    def test_names_of_old_checkpoints_load_as_torchvision_renames_them(
        self, checkpoint, encoder, build_encoder, tmp_path
    ):
        state = torch.load(checkpoint, weights_only=True)
        old = {
            name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
            .replace("inner_blocks.0.0.", "inner_blocks.0.")
            .replace("layer_blocks.0.0.", "layer_blocks.0."): tensor
            for name, tensor in state.items()
        }
        assert "rpn.head.conv.weight" in old
        torch.save(old, tmp_path / "old.pth")
        loaded = build_encoder("fasterrcnn", weights=tmp_path / "old.pth", min_size=SIDE_PX)
        pairs = zip(loaded.network.parameters(), encoder.network.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    def test_ordinary_norms_do_not_load_into_frozen_ones(self, checkpoint, build_encoder, tmp_path):
        state = torch.load(checkpoint, weights_only=True)
        path = tmp_path / "ordinary.pth"
        torch.save(
            state | {"backbone.body.bn1.num_batches_tracked": torch.tensor(0), "roi_heads.x": torch.zeros(1)}, path
        )
        with pytest.raises(WeightsError, match=r"ordinary\.pth does not fit FasterRCNN: not known.*roi_heads\.x"):
            build_encoder("fasterrcnn", weights=path)

    def test_version_2_finds_what_torchvision_finds(self, build_encoder, tmp_path):
        network = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, min_size=SIDE_PX).eval()
        network.load_state_dict(tame(network.state_dict()))
        torch.save(network.state_dict(), tmp_path / "v2.pth")
        options = {"version": "v2", "score_min": 0.05, "nms_scope": "class", "max_boxes": 100, "min_size": SIDE_PX}
        sample = frame("v2")
        encoder = build_encoder("fasterrcnn", weights=tmp_path / "v2.pth", **options)
        quick(encoder.network)
        rows = encoder.encode([sample])
        with torch.inference_mode():
            expected = quick(network)([torch.from_numpy(sample.data).permute(2, 0, 1) / 255.0])[0]
        assert len(expected["boxes"]) > 0
        assert rows.fields["labels"].tolist() == expected["labels"].tolist()
        assert in_pixels(rows, sample) == pytest.approx(expected["boxes"].numpy(), abs=256 * 1e-5)


class TestAgainstTorchvision:
    def test_boxes_scores_and_labels_are_torchvisions_own(self, plain, encode):
        sample = frame("plain")
        rows = encode(sample, score_min=0.05, nms_scope="class", max_boxes=100)
        with torch.inference_mode():
            expected = plain([torch.from_numpy(sample.data).permute(2, 0, 1) / 255.0])[0]
        assert rows.counts["regions"].tolist() == [len(expected["boxes"])]
        assert len(expected["boxes"]) > 10
        assert rows.fields["labels"].tolist() == expected["labels"].tolist()
        assert rows.fields["scores"] == pytest.approx(expected["scores"].numpy(), abs=1e-5)
        assert in_pixels(rows, sample) == pytest.approx(expected["boxes"].numpy(), abs=256 * 1e-5)

    def test_repooled_vectors_are_the_box_heads_for_those_boxes(self, plain, encode):
        sample = frame("plain")
        rows = encode(sample)
        with torch.inference_mode():
            images, _ = plain.transform([torch.from_numpy(sample.data).permute(2, 0, 1) / 255.0])
            height, width = images.image_sizes[0]
            boxes = torch.from_numpy(rows.fields["boxes"]) * torch.tensor([width, height, width, height])
            pooled = plain.roi_heads.box_roi_pool(plain.backbone(images.tensors), [boxes], images.image_sizes)
            expected = plain.roi_heads.box_head(pooled).numpy()
        assert rows.fields["features"].shape == (10, 1024)
        assert np.abs(rows.fields["features"] - expected).max() <= 1e-5 * np.abs(expected).max()

    def test_proposal_vectors_come_from_the_proposal_of_the_box(self, plain, encode):
        sample = frame("plain")
        with torch.inference_mode():
            images, _ = plain.transform([torch.from_numpy(sample.data).permute(2, 0, 1) / 255.0])
            maps = plain.backbone(images.tensors)
            proposals, _ = plain.rpn(images, maps)
            vectors = plain.roi_heads.box_head(
                plain.roi_heads.box_roi_pool(maps, proposals, images.image_sizes)
            ).numpy()
        height, width = images.image_sizes[0]
        places = proposals[0].numpy() / np.array([width, height, width, height], np.float32)
        rows = encode(sample, box_feature="proposal")
        for box, vector in zip(rows.fields["boxes"], rows.fields["features"], strict=True):
            nearest = np.abs(places - box).max(axis=1).argmin()
            assert np.abs(places[nearest] - box).max() < 1e-5
            # The last bits of a box decide where its vector is pooled, and differ between kinds of processor.
            assert np.abs(vectors[nearest] - vector).max() <= 3e-5 * np.abs(vectors).max()
        refined, repooled = encode(sample, box_feature="refined_box_proposal_feature"), encode(sample)
        assert np.array_equal(refined.fields["boxes"], repooled.fields["boxes"])
        for vector in refined.fields["features"]:
            assert np.abs(vectors - vector).max(axis=1).min() <= 3e-5 * np.abs(vectors).max()
        assert not np.allclose(refined.fields["features"], repooled.fields["features"])


class TestRows:
    def test_13_boxes_are_normalised_and_sorted(self, encode):
        rows = encode(frame("a"), frame("b"))
        boxes = rows.fields["boxes"]
        assert ((boxes >= 0) & (boxes <= 1)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        for scores in rows.entries("scores"):
            assert (np.diff(scores) <= 0).all()
            assert len(scores) == 10
            assert ((scores > 0.01) & (scores <= 1)).all()
        assert {name: str(array.dtype) for name, array in rows.fields.items()} == {
            "boxes": "float32",
            "scores": "float32",
            "labels": "int32",
            "features": "float32",
            "pts_s": "float64",
            "image_size": "int32",
        }

    def test_13_vectors_of_given_boxes_equal_repooled_ones(self, encoder):
        sample = frame("given")
        rows = encoder.encode([sample])
        assert rows.num_rows == 1
        assert rows.fields["boxes"].shape == (10, 4)
        given = encoder.features_of(sample.data, rows.fields["boxes"])
        assert np.array_equal(given, rows.fields["features"])
        assert encoder.features_of(sample.data, np.zeros((0, 4), np.float32)).shape == (0, 1024)
        for box in ([0, 0, 0, 1], [0.5, 0, 0.4, 1], [0, 0, 1.01, 1], [0, 0, float("nan"), 1]):
            with pytest.raises(MediaError, match=r"within \[0, 1\], x2 > x1"):
                encoder.features_of(sample.data, np.array([box], np.float32))

    def test_13_frames_without_boxes_are_rows(self, encode):
        rows = encode(frame("a"), frame("b"), score_min=1)
        assert rows.num_rows == 2
        assert rows.counts["regions"].tolist() == [0, 0]
        assert rows.fields["features"].shape == (0, 1024)
        assert rows.fields["boxes"].shape == (0, 4)
        assert rows.fields["pts_s"].tolist() == [0.25, 0.25]
        assert Rows.concatenated([rows, encode(frame("a"))]).counts["regions"].tolist() == [0, 0, 10]

    def test_14_no_two_boxes_overlap_more_than_allowed_whatever_their_labels(self, encode):
        rows = encode(frame("plain"), max_boxes=100, nms=0.3)
        (boxes,) = rows.entries("boxes")
        assert len(boxes) > 20
        assert overlaps(boxes).max() <= 0.3 + 1e-5
        (per_class,) = encode(frame("plain"), max_boxes=100, nms=0.3, nms_scope="class").entries("boxes")
        assert overlaps(per_class).max() > 0.3

    def test_a_batch_of_several_sizes_equals_its_members(self, encoder):
        samples = [frame("a"), frame("tall", 256, 192), frame("b")]
        together = encoder.encode(samples)
        alone = Rows.concatenated([encoder.encode([sample]) for sample in samples])
        assert together.counts["regions"].tolist() == alone.counts["regions"].tolist() == [10, 10, 10]
        assert together.fields["labels"].tolist() == alone.fields["labels"].tolist()
        assert np.abs(together.fields["boxes"] - alone.fields["boxes"]).max() <= 1e-5
        largest = np.abs(alone.fields["features"]).max()
        assert np.abs(together.fields["features"] - alone.fields["features"]).max() <= 1e-5 * largest
        assert together.fields["image_size"].tolist() == [[256, 192], [192, 256], [256, 192]]

    def test_untrained_networks_give_boxes_too(self, build_encoder):
        rows = build_encoder("fasterrcnn", weights="random:0", min_size=SIDE_PX, min_boxes=5).encode([frame("r")])
        assert rows.counts["regions"][0] >= 5
        assert np.isfinite(rows.fields["features"].astype(np.float16)).all()

    def test_stream_says_how_classes_are_numbered(self, encoder):
        template = encoder.stream()
        assert template.kind == "objects"
        assert template.fields["features"].row_shape == ("regions", 1024)
        assert template.fields["pts_s"].entry_shape == ()
        assert template.fields["boxes"].axis == "regions"
        assert len(template.vocabulary) == len(VOCABULARY) == 91
        assert (VOCABULARY[0], VOCABULARY[1], VOCABULARY[90]) == ("__background__", "person", "toothbrush")
        assert template.preprocessing["box_feature"] == "repooled"


class TestGivenBoxes:
    @pytest.fixture
    def ground_truth(self, tmp_path):
        path = tmp_path / "boxes.csv"
        path.write_text(
            "item_id,time_s,x1,y1,x2,y2,label\n"
            "P01_01,0.25,0.1,0.2,0.5,0.9,3\nP01_01,0.25,0,0,1,1,0\nP01_01,9,0,0,1,1,0\nother,0,0,0,1,1,0\n"
        )
        return path

    def test_13_vectors_are_those_of_the_boxes_and_the_rest_is_the_files(
        self, checkpoint, encoder, build_encoder, ground_truth, tmp_path
    ):
        (tmp_path / "nouns.txt").write_text("pan\ncup\nlid\nknife\n")
        given = build_encoder(
            "fasterrcnn", weights=checkpoint, min_size=SIDE_PX, boxes=ground_truth, classes=tmp_path / "nouns.txt"
        )
        samples = [replace(frame("a"), item_id="P01_01"), replace(frame("b", 256, 192), item_id="P01_01")]
        far = replace(samples[0], pts_s=np.array([5.0]))
        rows = given.encode([*samples, far])
        assert rows.counts["regions"].tolist() == [2, 2, 0]
        boxes = np.array([[0.1, 0.2, 0.5, 0.9], [0, 0, 1, 1]], np.float32)
        for k, sample in enumerate(samples):
            assert np.array_equal(rows.entries("boxes")[k], boxes)
            alone = encoder.features_of(sample.data, boxes)
            assert np.abs(rows.entries("features")[k] - alone).max() <= 1e-5 * np.abs(alone).max()
        assert rows.entries("labels")[0].tolist() == [3, 0]
        assert rows.entries("scores")[0].tolist() == [1, 1]
        template = given.stream()
        assert template.vocabulary == ("pan", "cup", "lid", "knife")
        assert template.preprocessing["given_boxes_sha256"] == sha256_of(ground_truth)
        assert "boxes" not in given.options.model_dump()

    def test_an_item_that_the_file_does_not_know_fails(self, checkpoint, build_encoder, ground_truth):
        given = build_encoder("fasterrcnn", weights=checkpoint, min_size=SIDE_PX, boxes=ground_truth)
        with pytest.raises(MediaError, match=r"boxes\.csv has no boxes of this item"):
            given.encode([replace(frame("a"), item_id="P01_02")])

    def test_only_repooled_vectors_can_be_made(self):
        with pytest.raises(OptionError, match="box_feature=proposal is for detected boxes"):
            FasterRCNNOptions.parse({"boxes": "b.csv", "box_feature": "proposal"}, where="encoder 'fasterrcnn'")

    def test_files_are_looked_at_before_any_work(self, tmp_path):
        options = FasterRCNNOptions(weights="random:0", boxes=str(tmp_path / "none.csv"))
        with pytest.raises(OptionError, match=r"boxes=.*none\.csv: there is no such file or folder"):
            fasterrcnn.FasterRCNNEncoder.check_weights(options, name="fasterrcnn")


class TestClasses:
    def test_a_detector_of_other_classes_is_named_by_a_file(self, build_encoder, tmp_path):
        network = fasterrcnn.build("v1", min_size=SIDE_PX, num_classes=4)
        torch.save(tame(network.state_dict()), tmp_path / "epic.pth")
        names = tmp_path / "EPIC_noun_classes.csv"
        names.write_text("noun_id,class_key,nouns\n0,pan,['pan']\n1,cup,['cup']\n2,lid,['lid']\n")
        options = {"weights": tmp_path / "epic.pth", "min_size": SIDE_PX, "min_boxes": 3}
        encoder = build_encoder("fasterrcnn", **options, classes=names)
        quick(encoder.network)
        labels = encoder.encode([frame("a")]).fields["labels"]
        assert len(labels) >= 3
        assert ((labels >= 1) & (labels <= 3)).all()
        assert encoder.stream().vocabulary == ("__background__", "pan", "cup", "lid")
        assert build_encoder("fasterrcnn", **options).stream().vocabulary == ()
        names.write_text("noun_id,class_key,nouns\n0,pan,['pan']\n")
        with pytest.raises(OptionError, match=r"names 1 classes, the weights have 3 and the background"):
            build_encoder("fasterrcnn", **options, classes=names)


class TestSelection:
    RULE = SelectionRule(score_min=0.5, nms=0.5, scope="agnostic", min_boxes=0, max_boxes=10)

    def test_min_boxes_are_the_best_survivors_however_many_candidates_there_are(self):
        random = np.random.default_rng(0)
        corners = random.uniform(0, 80, (300, 1, 2))
        boxes = np.concatenate([corners, corners + random.uniform(5, 20, (300, 1, 2))], axis=2).repeat(20, axis=1)
        scores = random.uniform(0, 0.4, (300, 20))
        rule = SelectionRule(0.5, 0.5, "agnostic", 8, 10)
        kept = select(torch.from_numpy(boxes), torch.from_numpy(scores), (100, 100), rule)
        assert kept.scores.tolist() == greedy(boxes.reshape(-1, 4), scores.reshape(-1), 0.5)[:8]
        every = SelectionRule(0.5, 0.5, "agnostic", 10_000, 10_000)
        kept = select(torch.from_numpy(boxes), torch.from_numpy(scores), (100, 100), every)
        assert kept.scores.tolist() == greedy(boxes.reshape(-1, 4), scores.reshape(-1), 0.5)
        assert torch.equal(
            kept.proposals, torch.from_numpy(scores == kept.scores[:, None, None].numpy()).nonzero()[:, 1]
        )

    def test_ties_keep_the_order_of_the_candidates(self):
        boxes = torch.tensor([[[10.0 * k, 0, 10.0 * k + 5, 5]] for k in range(6)])
        kept = select(boxes, torch.full((6, 1), 0.9), (100, 100), self.RULE)
        assert kept.proposals.tolist() == list(range(6))

    def test_boxes_outside_the_picture_are_dropped_and_others_clipped(self):
        boxes = torch.tensor([[[-5.0, -5, 5, 5]], [[200, 0, 210, 10]], [[90, 90, 300, 300]]])
        kept = select(boxes, torch.full((3, 1), 0.9), (100, 100), self.RULE)
        assert kept.boxes.tolist() == [[0, 0, 5, 5], [90, 90, 100, 100]]

    def test_a_score_must_exceed_the_limit(self):
        boxes = torch.tensor([[[0.0, 0, 5, 5]], [[20, 0, 25, 5]]])
        kept = select(boxes, torch.tensor([[0.5], [0.75]]), (100, 100), self.RULE)
        assert kept.proposals.tolist() == [1]

    def test_no_proposals_no_boxes(self):
        rule = SelectionRule(0.5, 0.5, "agnostic", 3, 10)
        assert len(select(torch.zeros(0, 90, 4), torch.zeros(0, 90), (100, 100), rule).boxes) == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"min_boxes": "11"}, "min_boxes 11 is more than max_boxes 10"),
            ({"nms": "0"}, "greater than 0"),
            ({"min_size": "32"}, "greater than or equal to 96"),
            ({"version": "v3"}, "'v1' or 'v2'"),
        ],
    )
    def test_options_out_of_range_are_refused(self, options, message):
        with pytest.raises(OptionError, match=message):
            FasterRCNNOptions.parse(options, where="encoder 'fasterrcnn'")


def greedy(boxes, scores, limit):
    """Suppression written out: walk down the scores, keep what overlaps nothing kept by more than the limit."""
    kept = []
    for k in np.argsort(-scores, kind="stable"):
        if not kept or box_iou(torch.from_numpy(boxes[[k]]), torch.from_numpy(boxes[kept])).max() <= limit:
            kept.append(k)
    return scores[kept].tolist()
