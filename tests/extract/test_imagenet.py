"""ImageNet frame networks: pictures as torchvision and Caffe prepare them, rows as torchvision's own models give."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from vidloc.errors import OptionError, WeightsError
from vidloc.extract.base import ClipInput, FrameInput, FrameSize, Sample
from vidloc.extract.imagenet import ImageNetNetwork
from vidloc.extract.pictures import sized
from vidloc.extract.published import PUBLISHED
from vidloc.extract.weights import sha256_of
from vidloc.testing import deterministic_fill

TOLERANCE = 1e-5  # of the maximum
SIDE = 64


def made_up(network, seed):
    """Weights for a network: random ones, but for wide linear layers, whose rows are one number each (small files)."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue  # as in the published files, which are older
        shape = tuple(tensor.shape)
        if len(shape) == 4:
            fan_in = shape[1] * shape[2] * shape[3]
            state[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        elif len(shape) == 2 and shape[1] > 2048:
            state[name] = (torch.randn((shape[0], 1), generator=generator) / shape[1] ** 0.5).expand(shape)
        elif len(shape) == 2:
            state[name] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        else:
            state[name] = torch.from_numpy(deterministic_fill.fill(name, shape))
    return state


def with_weights(build, seed):
    """A model of torchvision in eval mode and its weights; built without memory for those it would draw itself."""
    with torch.device("meta"):
        network = build()
    state = made_up(network, seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=tensor.dtype)
    network.load_state_dict(state, assign=True)
    return network.eval(), {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def resnet():
    return with_weights(models.resnet50, 0)


@pytest.fixture(scope="module")
def resnet_file(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet50-0676ba61.pth"
    torch.save(resnet[1], path)
    return path


@pytest.fixture(scope="module")
def vgg():
    return with_weights(models.vgg16, 1)


@pytest.fixture
def save(tmp_path):
    def save(state):
        torch.save(state, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return save


def frame(name, height=SIDE, width=SIDE, num_frames=None):
    pictures = deterministic_fill.frames(name, num_frames or 1, height, width)
    data = pictures if num_frames else pictures[0]
    return Sample((Fraction(0), Fraction(1)), data, np.zeros(num_frames or 1), image_size=(width, height))


def normalised(picture):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return ((torch.from_numpy(picture).permute(2, 0, 1) / 255 - mean) / std)[None]


def close(ours, theirs):
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


class TestPictures:
    @pytest.mark.parametrize(
        ("height", "width", "worst", "mean"),
        [(256, 320, 1e-4, 1e-4), (360, 640, 1.001, 0.005), (301, 257, 1.001, 0.005)],
    )
    def test_frames_are_prepared_as_torchvision_does(self, build_encoder, height, width, worst, mean):
        """On Pillow images, as its weights were evaluated: where it resizes, one number in 250 is rounded otherwise."""
        encoder = build_encoder("resnet34", weights="random:0")
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        prepared = sized(picture, encoder.input.size)
        ours = encoder.pictures([Sample((Fraction(0), Fraction(1)), prepared, np.zeros(1))])[0]
        theirs = models.ResNet34_Weights.IMAGENET1K_V1.transforms()(Image.fromarray(picture))
        levels = (ours - theirs).abs() * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255
        assert levels.max() < worst
        assert levels.mean() < mean

    def test_caffe_takes_blue_first_and_no_scale(self, build_encoder):
        encoder = build_encoder("resnet34", weights="random:0", variant="caffe", side_px=64)
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[..., 0] = 255
        ours = encoder.pictures([Sample((Fraction(0), Fraction(1)), picture, np.zeros(1))])
        assert ours[0, :, 5, 5].tolist() == pytest.approx([-103.939, -116.779, 255 - 123.68])
        assert encoder.stream().preprocessing["normalisation"] == "minus 103.939, 116.779, 123.68"

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, FrameInput(FrameSize(256, 224, antialias=True))),
            ({"frame": "whole"}, FrameInput(FrameSize(224, antialias=True))),
            (
                {"frame": "stretch", "num_frames": 16, "tap": "layer4"},
                ClipInput(16, Fraction(1), FrameSize(stretch_px=(224, 224), antialias=True)),
            ),
        ],
    )
    def test_which_frames_are_asked_for(self, build_encoder, options, expected):
        assert build_encoder("resnet34", weights="random:0", **options).input == expected


class TestResNet:
    def test_rows_equal_torchvisions_and_a_batch_equals_its_members(self, resnet, resnet_file, build_encoder):
        network, _ = resnet
        samples = [frame("a"), frame("b")]
        rows = build_encoder("resnet50", weights=resnet_file, side_px=SIDE, scores=True).encode(samples).fields
        maps = build_encoder("resnet50", weights=resnet_file, side_px=SIDE, tap="layer4").encode(samples).fields
        pooled, last = [], []
        network.avgpool.register_forward_hook(lambda module, inputs, made: pooled.append(made.flatten(1)[0]))
        network.layer4.register_forward_hook(lambda module, inputs, made: last.append(made[0].permute(1, 2, 0)))
        for k, sample in enumerate(samples):
            with torch.inference_mode():
                scores = network(normalised(sample.data))
            assert close(rows["features"][k], pooled[k])
            assert close(rows["scores"][k], scores[0])
            assert close(maps["features"][k], last[k])
        assert not close(rows["features"][0], rows["features"][1])
        assert maps["features"].shape == (2, 2, 2, 2048)

    @pytest.mark.parametrize(("name", "last"), [("resnet34", "conv2"), ("resnet50", "conv3")])
    def test_the_map_before_the_last_norm_is_its_convolution_plus_the_shortcut(self, name, last, build_encoder, save):
        network, state = with_weights(getattr(models, name), 3)
        options = {"weights": save(state), "side_px": SIDE, "tap": "layer4", "num_frames": 2}
        encoder = build_encoder(name, **options, before_norm=True, scores=True)
        sample = frame("pair", num_frames=2)
        rows = encoder.encode([sample]).fields
        block, seen = network.layer4[-1], {}
        block.register_forward_pre_hook(lambda module, fed: seen.update(shortcut=fed[0].clone()))
        getattr(block, last).register_forward_hook(lambda module, fed, made: seen.update(convolved=made.clone()))
        block.register_forward_hook(lambda module, fed, made: seen.update(whole=made))
        with torch.inference_mode():
            network(torch.cat([normalised(picture) for picture in sample.data]))
        expected = {"features": seen["whole"], "before_norm": seen["convolved"] + seen["shortcut"]}
        for field, maps in expected.items():
            assert close(rows[field][0], maps.mean(0).permute(1, 2, 0))
        assert (rows["before_norm"] < 0).any()
        shapes = {field: spec.row_shape for field, spec in encoder.stream().fields.items()}
        assert shapes["before_norm"] == shapes["features"] == (2, 2, rows["features"].shape[-1])

    def test_a_row_of_several_frames_is_their_mean(self, resnet_file, build_encoder):
        options = {"weights": resnet_file, "side_px": SIDE, "tap": "layer4"}
        samples = [frame(name, num_frames=2) for name in ("a", "b")]
        rows = build_encoder("resnet50", **options, num_frames=2).encode(samples).fields["features"]
        single = build_encoder("resnet50", **options)
        for row, sample in zip(rows, samples, strict=True):
            alone = [Sample(sample.span, picture, np.zeros(1)) for picture in sample.data]
            assert close(row, single.encode(alone).fields["features"].mean(axis=0))

    def test_whole_frames_of_several_sizes_keep_their_order(self, resnet_file, build_encoder):
        encoder = build_encoder("resnet50", weights=resnet_file, side_px=SIDE, frame="whole")
        samples = [frame("a", 64, 96), frame("b", 96, 64), frame("c", 64, 96)]
        rows = encoder.encode(samples).fields["features"]
        alone = [encoder.encode([sample]).fields["features"][0] for sample in samples]
        assert close(rows, np.stack(alone))

    def test_weights_that_do_not_fit_are_refused_by_name(self, resnet, build_encoder, save):
        state = dict(resnet[1])
        state["layer5.conv.weight"] = state.pop("layer1.0.conv2.weight")
        with pytest.raises(WeightsError, match=r"missing: layer1\.0\.conv2.*not known to the network: layer5\.conv"):
            build_encoder("resnet50", weights=save(state))
        with pytest.raises(WeightsError, match=r"does not fit ResNet: .*size mismatch for layer1\.0\.conv1"):
            build_encoder("resnet34", weights=save(resnet[1]))

    def test_own_classes_have_own_names(self, resnet, build_encoder, save, tmp_path):
        state = resnet[1] | {"fc.weight": torch.zeros(2, 2048), "fc.bias": torch.tensor([1.0, 2.0])}
        (tmp_path / "names.txt").write_text("chop\nstir\n")
        options = {"weights": save(state), "scores": True, "side_px": SIDE}
        own = build_encoder("resnet50", **options, classes=tmp_path / "names.txt")
        assert own.stream().vocabulary == ("chop", "stir")
        assert own.encode([frame("a")]).fields["scores"].tolist() == [[1.0, 2.0]]
        (tmp_path / "names.txt").write_text("chop\n")
        with pytest.raises(OptionError, match=r"names\.txt names 1 classes, the weights have 2"):
            build_encoder("resnet50", **options, classes=tmp_path / "names.txt")


class TestVGG:
    def test_fc7_and_scores_equal_torchvisions(self, vgg, build_encoder, save):
        network, state = vgg
        sample = frame("a", 224, 224)
        rows = build_encoder("vgg16", weights=save(state), tap="fc7", scores=True).encode([sample]).fields
        hidden = []
        network.classifier[4].register_forward_hook(lambda module, inputs, made: hidden.append(made))
        with torch.inference_mode():
            scores = network(normalised(sample.data))
        assert rows["features"].shape == (1, 4096)
        assert close(rows["features"], hidden[0])
        assert close(rows["scores"], scores)

    def test_pool5_of_the_release_for_caffe(self, vgg, build_encoder, save):
        network, state = vgg
        theirs = {"classifier.0.": "classifier.1.", "classifier.3.": "classifier.4."}
        renamed = {theirs.get(name[:13], name[:13]) + name[13:]: tensor for name, tensor in state.items()}
        assert {"classifier.1.weight", "classifier.4.bias", "classifier.6.weight"} <= set(renamed)
        encoder = build_encoder(
            "vgg16", weights=save(renamed), tap="pool5", variant="caffe", frame="stretch", side_px=96
        )
        assert len(encoder.network.classifier) == 0
        sample = frame("a", 96, 96)
        blue_first = torch.from_numpy(sample.data[..., ::-1].copy()).float() - torch.tensor([103.939, 116.779, 123.68])
        with torch.inference_mode():
            maps = network.features(blue_first.permute(2, 0, 1)[None])
        rows = encoder.encode([sample]).fields["features"]
        assert rows.shape == (1, 3, 3, 512)
        assert close(rows[0], maps[0].permute(1, 2, 0))
        assert rows.min() == 0

    def test_stream_of_the_ave_rows(self):
        options = ImageNetNetwork.Options.parse(
            {"weights": "random:0", "variant": "caffe", "tap": "pool5", "frame": "stretch", "num_frames": "16"},
            where="encoder 'vgg19'",
        )
        template = ImageNetNetwork(options, name="vgg19", device=torch.device("cpu")).stream()
        assert template.fields["features"].row_shape == (7, 7, 512)
        assert template.preprocessing["resize"] == "to 224 x 224, aspect not kept, bilinear, antialiased"
        assert template.preprocessing["colour"] == "BGR in 0..255"
        assert "CC BY 4.0" in template.source.licence


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("resnet50", {"tap": "fc7"}, r"'resnet50': there is no tap=fc7; it has pooled, layer4"),
            ("vgg19", {"tap": "layer4"}, r"'vgg19': there is no tap=layer4; it has pooled, pool5, fc7"),
            ("resnet50", {"tap": "layer4", "frame": "whole"}, "maps of whole frames differ in size"),
            ("resnet34", {"before_norm": "true"}, "add tap=layer4"),
            ("resnet50", {"side_px": "288"}, "side_px 288 does not fit into resize_px 256"),
            ("resnet50", {"side_px": "100"}, "multiple of 32"),
            ("resnet50", {"classes": "names.txt"}, "add scores=true"),
        ],
    )
    def test_what_cannot_be_is_refused_before_any_work(self, name, options, message):
        with pytest.raises(OptionError, match=message):
            ImageNetNetwork.check_weights(ImageNetNetwork.Options.parse(options, where=f"encoder {name!r}"), name=name)

    @pytest.mark.parametrize(
        ("name", "variant", "published"),
        [
            ("vgg19", "torchvision", "vgg19"),
            ("vgg19", "caffe", "vgg19_caffe"),
            ("resnet152", "torchvision", "resnet152"),
        ],
    )
    def test_each_variant_has_its_published_weights(self, name, variant, published, monkeypatch, tmp_path):
        monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path))
        with pytest.raises(WeightsError, match=f"vidloc weights fetch {published}\n"):
            ImageNetNetwork.check_weights(ImageNetNetwork.Options(variant=variant), name=name)

    def test_addresses_are_torchvisions_own(self):
        for name in ("ResNet34", "ResNet50", "ResNet152", "VGG16", "VGG19"):
            theirs = getattr(models, f"{name}_Weights").IMAGENET1K_V1
            entry = PUBLISHED[name.lower()]
            assert entry.url == theirs.url
            assert entry.url.endswith(f"-{entry.sha256}.pth")

    def test_published_weights_bring_their_class_names(self, resnet_file, build_encoder, monkeypatch, tmp_path):
        monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path))
        entry = replace(PUBLISHED["resnet50"], sha256=sha256_of(resnet_file))
        monkeypatch.setitem(PUBLISHED, "resnet50", entry)
        cached = tmp_path / "weights" / entry.file_name
        cached.parent.mkdir()
        cached.write_bytes(resnet_file.read_bytes())
        names = build_encoder("resnet50", scores=True).stream().vocabulary
        assert (len(names), names[0], names[151]) == (1000, "tench", "Chihuahua")
        assert build_encoder("resnet50", scores=True, weights=cached).stream().vocabulary == ()
