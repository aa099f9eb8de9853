"""TSN's frame networks: BN-Inception against its definition written out, ResNet-50 against torchvision's own."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision import models

from vidloc.errors import OptionError, WeightsError
from vidloc.extract.base import FrameInput, FrameSize, Sample
from vidloc.extract.bn_inception import BNInception
from vidloc.testing.deterministic_fill import filled, frames

TOLERANCE = 1e-5  # of the maximum
SMALL = {"frame": "crop", "crop_px": 64}


def frame(name):
    pixels = frames(name, 1, 64, 64)[0]
    return Sample((Fraction(0), Fraction(1)), pixels, np.zeros(1), image_size=(64, 64))


def close(ours, theirs):
    return ours.shape == theirs.shape and np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def bgr(sample):
    blue_first = sample.data[..., ::-1].astype(np.float32) - np.array([104, 117, 128], np.float32)
    return torch.from_numpy(blue_first.transpose(2, 0, 1).copy())[None]


@pytest.fixture(scope="module")
def inception():
    network = BNInception().eval()
    network.load_state_dict(filled(network.state_dict()))
    return network


@pytest.fixture
def save(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "TSN-rgb.pth.tar")
        return tmp_path / "TSN-rgb.pth.tar"

    return save


class TestBNInception:
    def test_it_has_the_size_of_the_definition(self):
        with torch.device("meta"):
            pictures, flow = BNInception(), BNInception(10)
        assert sum(p.numel() for p in pictures.parameters()) == 10_270_240
        assert sum(p.numel() for p in flow.parameters()) == 10_270_240 + 7 * 7 * 7 * 64
        # 69 convolutions of two tensors, their norms of five.
        assert len(pictures.state_dict()) == 69 * 7

    def test_stages_have_the_sizes_of_the_paper(self):
        network, seen = BNInception().to("meta"), {}
        for name in ("conv1_7x7_s2", "conv2_3x3", "inception_3c_3x3", "inception_4e_3x3", "inception_5b_3x3"):
            network.get_submodule(name).register_forward_hook(
                lambda module, fed, made, name=name: seen.update({name: (fed[0].shape[1:], made.shape[1:])})
            )
        assert network.maps(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1024, 7, 7)
        assert seen == {
            "conv1_7x7_s2": ((3, 224, 224), (64, 112, 112)),
            "conv2_3x3": ((64, 56, 56), (192, 56, 56)),
            "inception_3c_3x3": ((128, 28, 28), (160, 14, 14)),
            "inception_4e_3x3": ((128, 14, 14), (192, 7, 7)),
            "inception_5b_3x3": ((192, 7, 7), (320, 7, 7)),
        }
        assert network.maps(torch.empty(1, 3, 256, 454, device="meta")).shape == (1, 1024, 8, 14)

    @pytest.mark.parametrize(("name", "width"), [("3a", 192), ("3c", 320), ("5b", 1024)])
    def test_a_block_equals_its_definition_written_out(self, inception, name, width):
        maps = torch.rand(1, width, 8, 6, generator=torch.Generator().manual_seed(0))
        stride = 2 if name == "3c" else 1

        def unit(branch, x, stride=1):
            weights = {k.split(".")[-1]: v for k, v in inception.state_dict().items() if f"_{name}_{branch}." in k}
            norm = {k.split(".")[-1]: v for k, v in inception.state_dict().items() if f"_{name}_{branch}_bn." in k}
            size = weights["weight"].shape[-1]
            x = functional.conv2d(x, weights["weight"], weights["bias"], stride, size // 2).double()
            mean, var, scale, shift = (
                norm[key].double().view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
            )
            return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0).float()

        branches = [] if name == "3c" else [unit("1x1", maps)]
        branches.append(unit("3x3", unit("3x3_reduce", maps), stride))
        branches.append(unit("double_3x3_2", unit("double_3x3_1", unit("double_3x3_reduce", maps)), stride))
        if name == "3c":  # windows begin at even places and may reach over the edge
            branches.append(pooled(maps, np.max, starts=(range(0, 8, 2), range(0, 6, 2))))
        else:  # windows around each place; zeros around the map count in the average, and never win
            padded = functional.pad(maps, (1, 1, 1, 1))
            kind = np.mean if name == "3a" else np.max
            branches.append(unit("pool_proj", pooled(padded, kind, starts=(range(8), range(6)))))
        expected = torch.cat(branches, dim=1).numpy()
        with torch.inference_mode():
            assert close(inception.mixed(name, maps).numpy(), expected)


def pooled(maps, kind, starts):
    rows = [[kind(maps.numpy()[0, :, y : y + 3, x : x + 3], axis=(1, 2)) for x in starts[1]] for y in starts[0]]
    return torch.from_numpy(np.array(rows, np.float32).transpose(2, 0, 1))[None]


class TestRows:
    def test_bn_inception_sees_blue_first_and_no_scale(self, inception, save, build_encoder):
        state = {f"module.base_model.{name}": tensor for name, tensor in inception.state_dict().items()}
        state |= {"module.new_fc.weight": torch.zeros(2513, 1024), "module.new_fc.bias": torch.zeros(2513)}
        path = save({"epoch": 80, "arch": "BNInception", "state_dict": state, "best_prec1": torch.tensor(31.0)})
        encoder = build_encoder("tsn_rgb_bninception", weights=path, **SMALL)
        samples = [frame("a"), frame("b")]
        rows = encoder.encode(samples).fields["features"]
        with torch.inference_mode():
            expected = np.concatenate([inception(bgr(sample)).numpy() for sample in samples])
        assert rows.shape == (2, 1024)
        assert close(rows, expected)
        assert encoder.stream().preprocessing["normalisation"] == "minus 104, 117, 128, over 1"

    def test_the_port_of_caffes_own_release_loads(self, inception, save, build_encoder):
        """Without a prefix, with a classifier of ImageNet, and norms of shape (1, channels) in the oldest file."""
        state = {
            name: tensor[None] if "_bn." in name and tensor.ndim == 1 else tensor
            for name, tensor in inception.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        linear = filled({"last_linear.weight": torch.empty(7, 1024), "last_linear.bias": torch.empty(7)})
        encoder = build_encoder("tsn_rgb_bninception", weights=save(state | linear), scores=True, **SMALL)
        rows = encoder.encode([frame("a")]).fields
        with torch.inference_mode():
            features = inception(bgr(frame("a"))).numpy()
        assert close(rows["features"], features)
        assert close(
            rows["scores"], features @ linear["last_linear.weight"].numpy().T + linear["last_linear.bias"].numpy()
        )

    def test_resnet_equals_torchvisions_and_a_joint_classifier_is_told_apart_by_class_names(
        self, save, build_encoder, tmp_path
    ):
        network = models.resnet50(num_classes=5)
        network.load_state_dict(calm(network.state_dict()))
        network.eval()
        state = {
            f"model.base_model.{name}": t for name, t in network.state_dict().items() if not name.startswith("fc.")
        }
        state |= {f"model.new_fc.{kind}": getattr(network.fc, kind).detach() for kind in ("weight", "bias")}
        path = save({"state_dict": state})
        (tmp_path / "verbs.txt").write_text("take\nput\n")
        (tmp_path / "nouns.txt").write_text("tap\nspoon\nplate\n")
        files = {"classes_verb": tmp_path / "verbs.txt", "classes_noun": tmp_path / "nouns.txt"}
        told = build_encoder("tsn_rgb_r50", weights=path, scores=True, **files, **SMALL)
        rows = told.encode([frame("a")]).fields
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        picture = (torch.from_numpy(frame("a").data).permute(2, 0, 1) / 255 - mean) / std
        with torch.inference_mode():
            scores = network(picture[None]).numpy()
        assert rows["features"].shape == (1, 2048)
        assert close(np.concatenate([rows["scores_verb"], rows["scores_noun"]], axis=1), scores)
        assert rows["scores_verb"].shape == (1, 2)
        assert told.stream().preprocessing["classes"] == {
            "scores_verb": ["take", "put"],
            "scores_noun": ["tap", "spoon", "plate"],
        }
        untold = build_encoder("tsn_rgb_r50", weights=path, scores=True, **SMALL)
        assert untold.num_classes == {"scores": 5}
        with pytest.raises(OptionError, match=r"nouns\.txt names classes of the field 'scores_noun', .* have scores\."):
            build_encoder("tsn_rgb_r50", weights=path, scores=True, classes_noun=files["classes_noun"], **SMALL)

    def test_the_names_of_mmaction2_are_torchvisions_told_otherwise(self, save, build_encoder):
        network = models.resnet50(num_classes=200)
        network.load_state_dict(calm(network.state_dict()))
        theirs = {}
        for name, tensor in network.eval().state_dict().items():
            *place, layer, part = name.split(".")
            if place[-1:] == ["downsample"]:
                layer = {"0": "conv", "1": "bn"}[layer]
            elif layer != "fc":
                kind, number = layer[:-1], layer[-1]
                layer = f"conv{number}.{kind}"
            side = "cls_head.fc_cls" if layer == "fc" else ".".join(["backbone", *place, layer])
            theirs[f"{side}.{part}"] = tensor
        assert {"backbone.conv1.bn.weight", "backbone.layer3.0.downsample.conv.weight"} <= theirs.keys()
        path = save({"meta": {"epoch": 1}, "state_dict": theirs})
        rows = build_encoder("tsn_rgb_r50", weights=path, scores=True, **SMALL).encode([frame("a")]).fields
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        with torch.inference_mode():
            picture = (torch.from_numpy(frame("a").data).permute(2, 0, 1) / 255 - mean) / std
            assert close(rows["scores"], network(picture[None]).numpy())

    def test_two_classifiers_give_two_fields(self, inception, save, build_encoder):
        state = {f"base_model.{name}": tensor for name, tensor in inception.state_dict().items()}
        layers = {"fc_verb": 4, "fc_noun": 6}
        for name, count in layers.items():
            state |= filled({f"{name}.weight": torch.empty(count, 1024), f"{name}.bias": torch.empty(count)})
        scored = build_encoder("tsn_rgb_bninception", weights=save({"state_dict": state}), scores=True, **SMALL)
        rows = scored.encode([frame("a")]).fields
        for name in layers:
            expected = rows["features"] @ state[f"{name}.weight"].numpy().T + state[f"{name}.bias"].numpy()
            assert close(rows[name.replace("fc", "scores")], expected)

    def test_weights_of_flow_are_refused_by_their_first_layer(self, save, build_encoder):
        state = filled(BNInception(10).state_dict())
        with pytest.raises(
            WeightsError, match=r"size mismatch for base_model\.conv1_7x7_s2\.weight: .*\[64, 10, 7, 7\]"
        ):
            build_encoder("tsn_rgb_bninception", weights=save(state), **SMALL)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("tsn_rgb_bninception", {}, FrameSize(stretch_px=(256, 454), antialias=True)),
        ("tsn_rgb_bninception", {"frame": "crop"}, FrameSize(256, 224, antialias=True)),
        ("tsn_rgb_r50", {}, FrameSize(256, 224, antialias=True)),
    ],
)
def test_which_frames_are_asked_for(build_encoder, name, options, size):
    assert build_encoder(name, weights="random:0", **options).input == FrameInput(size)


def calm(state):
    """Filled weights whose activations keep their size over sixteen residual blocks."""
    return {name: t * 0.2 if name.endswith("bn3.weight") else t for name, t in filled(state).items()}
