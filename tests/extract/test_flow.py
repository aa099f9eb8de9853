"""Optical flow: known motion, torchvision's own RAFT, the published scalings, and each pair computed once."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.models import optical_flow

from vidloc.errors import OptionError, WeightsError
from vidloc.extract import flow as flow_module
from vidloc.extract.base import arithmetic
from vidloc.extract.flow import FlowOptions, OpticalFlow
from vidloc.extract.flow_algorithm import FlowAlgorithm
from vidloc.extract.flow_scaling import grey_levels, in_unit_range, tsn_stack, video_features_range
from vidloc.extract.raft import Raft
from vidloc.extract.tvl1 import TVL1
from vidloc.testing.deterministic_fill import filled

CPU = torch.device("cpu")


def options(**given: object) -> FlowOptions:
    return FlowOptions.parse({name: str(value) for name, value in given.items()}, where="encoder 'motion'")


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture, uint8 RGB, with structure at the size of a few pixels."""
    noise = torch.from_numpy(np.random.default_rng(seed).random((1, 3, height // 8 + 3, width // 8 + 3)))
    smooth = functional.interpolate(noise, scale_factor=8, mode="bicubic")[0, :, 8 : 8 + height, 8 : 8 + width]
    return (smooth.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).numpy().copy()


def moved(picture: np.ndarray, right: int, down: int, height: int, width: int) -> np.ndarray:
    """A view of a large picture in which all that is seen has moved by whole pixels."""
    top, left = 16 - down, 16 - right
    return picture[top : top + height, left : left + width].copy()


class TestTVL1:
    @pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-2, 4)])
    def test_a_shift_by_whole_pixels_is_found(self, right, down):
        wall = texture(96, 112)
        first, second = moved(wall, 0, 0, 64, 80), moved(wall, right, down, 64, 80)
        (flow,) = TVL1().between([(first, second)])
        assert (flow.shape, flow.dtype) == ((64, 80, 2), np.float32)
        inside = flow[12:-12, 12:-12]
        assert np.abs(inside - (right, down)).max() < 0.25
        assert np.abs(inside.mean((0, 1)) - (right, down)).max() < 0.02

    def test_still_frames_have_no_flow_at_all(self):
        picture = texture(48, 48)
        assert not TVL1().between([(picture, picture)])[0].any()

    def test_a_pair_does_not_depend_on_those_before_it(self):
        wall = texture(80, 80)
        pairs = [(moved(wall, 0, 0, 48, 48), moved(wall, right, 0, 48, 48)) for right in (1, 3)]
        solver = TVL1()
        together = solver.between(pairs)
        np.testing.assert_array_equal(solver.between(pairs[1:])[0], together[1])
        np.testing.assert_array_equal(TVL1().between(pairs[1:])[0], together[1])

    def test_every_parameter_is_recorded(self):
        described = TVL1().described()
        assert described["algorithm"] == "tvl1"
        assert {"Tau": 0.25, "Lambda": 0.15, "ScalesNumber": 5}.items() <= described["parameters"].items()
        assert not described["parameters"]["UseInitialFlow"]  # flow of the pair before plays no part

    def test_a_missing_opencv_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(OptionError, match=r"flow=tvl1 needs the package .*pip install 'vidloc\[flow\]'"):
            OpticalFlow.check(options())

    def test_an_opencv_without_the_contributed_modules_is_told_apart(self, monkeypatch):
        plain = ModuleType("cv2")
        plain.__version__ = "4.9.0"
        monkeypatch.setitem(sys.modules, "cv2", plain)
        with pytest.raises(OptionError, match=r"contributed modules, which the OpenCV 4\.9\.0 .* lacks"):
            OpticalFlow(options(), device=CPU)


class TestRaft:
    @pytest.mark.parametrize("name", ["raft_large", "raft_small"])
    def test_flow_is_that_of_torchvision(self, name, tmp_path):
        network = getattr(optical_flow, name)().eval()
        network.load_state_dict(filled(network.state_dict()))
        path = tmp_path / "raft.pth"
        torch.save(network.state_dict(), path)
        wall = texture(168, 176)
        first, second = moved(wall, 0, 0, 129, 140), moved(wall, 2, 1, 129, 140)
        ours = Raft(name, weights=str(path), published=name, num_updates=1, device=CPU)
        (flow,) = ours.between([(first, second)])
        # 129 x 140 padded to 136 x 144: three rows in front and four behind, two columns on either side.
        images = (torch.from_numpy(np.stack([first, second])).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        images = functional.pad(images, (2, 2, 3, 4), mode="replicate")
        with torch.inference_mode():
            theirs = network(images[:1], images[1:], num_flow_updates=1)[-1][0, :, 3:-4, 2:-2].permute(1, 2, 0)
        assert flow.shape == (129, 140, 2)
        assert np.abs(flow - theirs.numpy()).max() <= 1e-5 * float(theirs.abs().max())
        assert float(theirs.abs().max()) > 0.01
        described = ours.described()
        assert (described["algorithm"], described["weights"], described["updates"]) == (name, "raft.pth", 1)
        assert len(described["weights_sha256"]) == 64

    def test_flow_is_float32_whatever_the_precision_around_it(self):
        wall = texture(160, 160)
        pair = (moved(wall, 0, 0, 128, 128), moved(wall, 2, 0, 128, 128))
        raft = Raft("raft_small", weights="random:3", published="raft_small", num_updates=1, device=CPU)
        with arithmetic(CPU, "bfloat16"):
            (inside,) = raft.between([pair])
        np.testing.assert_array_equal(inside, raft.between([pair])[0])

    def test_groups_are_filled_up_and_change_nothing(self):
        wall = texture(160, 160)
        pairs = [(moved(wall, 0, 0, 128, 128), moved(wall, right, 0, 128, 128)) for right in (1, 2, 3)]
        raft = Raft("raft_small", weights="random:3", published="raft_small", num_updates=1, device=CPU)
        alone = raft.between(pairs)
        sizes = []
        raft.network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
        raft._group = 2  # as on a GPU, where kernels are chosen by the size of a batch
        for one, other in zip(alone, raft.between(pairs), strict=True):
            assert np.abs(one - other).max() <= 1e-4 * np.abs(one).max()
        assert sizes == [2, 2]

    def test_a_checkpoint_of_the_other_size_is_refused(self, tmp_path):
        torch.save(optical_flow.raft_small().state_dict(), tmp_path / "small.pth")
        with pytest.raises(WeightsError, match=r"small\.pth does not fit RAFT"):
            OpticalFlow(options(flow="raft_large", flow_weights=tmp_path / "small.pth"), device=CPU)

    def test_missing_weights_are_found_before_any_work(self, monkeypatch, tmp_path):
        monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path))
        with pytest.raises(WeightsError, match=r"vidloc weights fetch raft_large\n(.*\n)+.*: flow_weights=random:0"):
            OpticalFlow.check(options(flow="raft_large"))
        with pytest.raises(WeightsError, match="flow_weights=random:0 for untrained weights, or leave flow_weights"):
            OpticalFlow.check(options(flow="raft_small", flow_weights=tmp_path / "none.pth"))
        with pytest.raises(OptionError, match="flow_weights='random:x'"):
            OpticalFlow.check(options(flow="raft_small", flow_weights="random:x"))

    def test_weights_for_an_algorithm_that_learns_nothing_are_refused(self):
        with pytest.raises(OptionError, match="flow is tvl1, which learns nothing; add flow=raft_large"):
            options(flow_weights="raft.pth")


class TestScaling:
    V = np.array([0, 20, -20, 35, -35, 0.05, 1], np.float32)

    @property
    def flow(self) -> np.ndarray:
        return np.stack([self.V, self.V[::-1]], axis=-1).reshape(1, 1, -1, 2)

    def test_unit_range(self):
        assert in_unit_range(self.flow)[0, 0, :, 0] == pytest.approx([0, 1, -1, 1, -1, 0.0025, 0.05])

    def test_video_features_rounds_and_its_zero_is_not_zero(self):
        scaled = video_features_range(self.flow)
        assert scaled.dtype == np.float32
        # The spec's numbers: no motion +0.0039, 20 pixels 1.0078; -20 pixels fall on 0.5, which is rounded to 0.
        expected = [0.00392157, 1.00784314, -1, 1.00784314, -1, 0.00392157, 13 / 255]
        assert scaled[0, 0, :, 0] == pytest.approx(expected, abs=3e-7)
        theirs = 128 + 255 / 40 * torch.from_numpy(self.flow).clamp(-20, 20)
        np.testing.assert_array_equal(scaled, (2 * theirs.round() / 255 - 1).numpy())

    def test_grey_levels_are_those_of_flow_pictures(self):
        levels = grey_levels(self.flow)
        assert levels.dtype == np.uint8
        # 255 (v + 20) / 40: no motion is 127.5, rounded to 128.
        assert levels[0, 0, :, 0].tolist() == [128, 255, 0, 255, 0, 128, 134]

    def test_tsn_stacks_five_pairs_to_ten_channels(self):
        flow = np.zeros((5, 2, 3, 2), np.float32)
        flow[..., 0] = np.arange(5)[:, None, None] * 2  # to the right, faster from pair to pair
        flow[..., 1] = -4
        stack = tsn_stack(grey_levels(flow))
        assert (stack.shape, stack.dtype) == ((10, 2, 3), np.uint8)
        assert stack[:, 0, 0].tolist() == [128, 102, 140, 102, 153, 102, 166, 102, 178, 102]


class Counting(FlowAlgorithm):
    """The difference of mean grey levels as a flow, and which pairs it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def between(self, pairs):
        self.asked += [(int(first[0, 0, 0]), int(second[0, 0, 0])) for first, second in pairs]
        return [
            np.full((*first.shape[:2], 2), float(second[0, 0, 0]) - float(first[0, 0, 0]), np.float32)
            for first, second in pairs
        ]

    def described(self):
        return {"algorithm": "counting"}


def levels(*values: int) -> np.ndarray:
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), 6, 8, 3)).copy()


class TestPairs:
    @pytest.fixture
    def counting(self, monkeypatch) -> Counting:
        algorithm = Counting()
        monkeypatch.setattr(flow_module, "TVL1", lambda: algorithm)
        return algorithm

    def test_overlapping_windows_compute_each_pair_once(self, counting):
        flow = OpticalFlow(options(), device=CPU, crop_px=4)
        windows = [levels(*range(start, start + 9)) for start in range(0, 40, 3)]
        for window in windows:
            found = flow.of(window)
            assert found.shape == (8, 4, 4, 2)
            assert (found == 1).all()
        distinct = {(k, k + 1) for window in windows for k in window[:-1, 0, 0, 0].tolist()}
        assert len(counting.asked) == len(distinct)
        assert set(counting.asked) == distinct

    def test_repeated_frames_are_one_pair_and_order_matters(self, counting):
        found = OpticalFlow(options(), device=CPU).of(levels(7, 7, 7, 9, 7, 9))
        assert found[:, 0, 0, 0].tolist() == [0, 0, 2, -2, 2]
        assert counting.asked == [(7, 7), (7, 9), (9, 7)]

    def test_frames_of_two_sizes_with_the_same_bytes_are_two(self, counting):
        flow = OpticalFlow(options(), device=CPU)
        tall = levels(1, 2)
        assert flow.of(tall).shape == (1, 6, 8, 2)
        assert flow.of(tall.reshape(2, 8, 6, 3)).shape == (1, 8, 6, 2)

    def test_memory_is_bounded_and_one_clip_may_exceed_it(self, counting, monkeypatch):
        monkeypatch.setattr(flow_module, "_CACHE_BYTES", 3 * 6 * 8 * 2 * 4)  # three flows
        flow = OpticalFlow(options(), device=CPU)
        assert flow.of(levels(*range(10)))[:, 0, 0, 0].tolist() == [1] * 9
        assert flow._known._bytes <= 3 * 6 * 8 * 2 * 4
        assert len(flow._known._flows) == 3
        flow.of(levels(*range(6, 11)))  # the last three pairs are known
        assert counting.asked[9:] == [(9, 10)]
        flow.of(levels(0, 1))
        assert counting.asked[10:] == [(0, 1)]

    def test_the_crop_is_the_middle_of_the_flow_of_the_whole_frame(self):
        wall = texture(96, 112)
        clip = np.stack([moved(wall, right, 0, 64, 80) for right in (0, 2, 4)])
        whole, cut = (OpticalFlow(options(), device=CPU, crop_px=side).of(clip) for side in (None, 48))
        assert whole.shape == (2, 64, 80, 2)
        np.testing.assert_array_equal(cut, whole[:, 8:56, 16:64])
