"""S3D-G of MIL-NCE, clips and sentences, against the worked values of specs/encoders.md section 12."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from vidloc.errors import OptionError, WeightsError
from vidloc.extract.base import Sample
from vidloc.extract.gated_s3d import GatedS3D, WordsToJoint, numbered, space_to_depth, word_numbers, words_of
from vidloc.extract.milnce_text import MilNceText
from vidloc.extract.s3d_milnce import MilNce
from vidloc.testing.deterministic_fill import filled

TOLERANCE = 2e-5  # of the maximum, as the spec states it
WORDS = ["open", "door", "cut", "tomato", "the", "a", "pour", "water", "don't", "pan", "egg", "stir"]
MEANS = {
    "conv1": 0.342109,
    "conv_2c": 0.496449,
    "gating": 0.264139,
    "mixed_3b": 0.280650,
    "mixed_3c": 0.166434,
    "mixed_4f": 0.053334,
    "mixed_5c": 0.044286,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Both sides in one file, as they are published."""
    video, text = GatedS3D().state_dict(), WordsToJoint().state_dict()
    state = filled(video | {f"text_module.{name}": tensor for name, tensor in text.items()})
    assert len(state) == 537
    path = tmp_path_factory.mktemp("weights") / "s3d_howto100m.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "s3d_dict.npy"
    np.save(path, np.array(WORDS))
    return path


@pytest.fixture(scope="module")
def encoder(checkpoint, build_encoder):
    return build_encoder("s3d_milnce", weights=checkpoint, num_frames=16, crop_px=64)


@pytest.fixture(scope="module")
def text(checkpoint, words, build_encoder):
    return build_encoder("milnce_text", weights=checkpoint, words=words)


@pytest.fixture(scope="module")
def sample(clip):
    return clip("spec_s3d", 16, 64)


def spoken(*sentences):
    return [Sample((Fraction(0), Fraction(1)), sentence, np.empty(0), key=f"k{sentence}") for sentence in sentences]


def test_networks_have_the_published_sizes():
    assert sum(p.numel() for p in GatedS3D().parameters()) == 9_670_800
    assert sum(p.numel() for p in WordsToJoint().parameters()) == 21_540_536
    assert {m.eps for m in GatedS3D().modules() if isinstance(m, nn.BatchNorm3d)} == {1e-5}


def test_space_to_depth_is_that_of_the_spec():
    cells = space_to_depth(torch.arange(24).reshape(1, 3, 2, 2, 2))
    assert cells.shape == (1, 24, 1, 1, 1)
    assert cells.flatten().tolist() == [
        *(0, 8, 16, 1, 9, 17, 2, 10, 18, 3, 11, 19),
        *(4, 12, 20, 5, 13, 21, 6, 14, 22, 7, 15, 23),
    ]


def test_the_worked_clip(encoder, sample):
    cells = sample.data[:, ::4, ::4].reshape(-1)
    assert cells[:8].tolist() == [228, 148, 241, 14, 24, 132, 231, 86]
    assert cells.astype(int).sum() == 1_564_697
    means, shapes, hooks = {}, {}, []
    for name in MEANS:

        def keep(module, inputs, maps, name=name):
            means[name], shapes[name] = maps.mean().item(), tuple(maps.shape[2:])

        hooks.append(encoder.network.get_submodule(name).register_forward_hook(keep))
    rows = encoder.encode([sample]).fields
    for hook in hooks:
        hook.remove()
    assert means == pytest.approx(MEANS, abs=1e-6)
    assert shapes["conv1"] == (9, 33, 33)
    features, joint = rows["features"][0], rows["joint"][0]
    assert np.linalg.norm(features) == pytest.approx(2.31675620, rel=TOLERANCE)
    assert np.flatnonzero(features)[0] == 1
    assert features[1] == pytest.approx(0.04056214, abs=TOLERANCE * float(features.max()))
    assert joint[:2] == pytest.approx([0.12792215, -0.14460333], abs=TOLERANCE)
    assert np.linalg.norm(joint) == pytest.approx(2.60990866, rel=TOLERANCE)
    assert not [m for m in encoder.network.modules() if isinstance(m, nn.BatchNorm3d)]


def test_a_batch_equals_its_members(encoder, sample, clip):
    other = clip("other", 16, 64)
    together = encoder.encode([sample, other]).fields
    for k, one in enumerate((sample, other)):
        alone = encoder.encode([one]).fields
        for name in ("features", "joint"):
            assert np.abs(together[name][k] - alone[name][0]).max() <= 1e-5 * np.abs(alone[name]).max()
    assert np.abs(together["joint"][0] - together["joint"][1]).max() > 1e-3


def test_joint_alone_is_the_features(checkpoint, build_encoder, encoder, sample):
    joint = build_encoder("s3d_milnce", weights=checkpoint, num_frames=16, crop_px=64, tap="joint")
    rows = joint.encode([sample]).fields
    assert rows.keys() == joint.stream().fields.keys() == {"features"}
    assert joint.stream().fields["features"].row_shape == (512,)
    assert np.array_equal(rows["features"], encoder.encode([sample]).fields["joint"])
    both = encoder.stream().fields
    assert {name: spec.row_shape for name, spec in both.items()} == {"features": (1024,), "joint": (512,)}


def test_input_is_as_published(build_encoder, sample):
    encoder = build_encoder("s3d_milnce", weights="random:0")
    assert (encoder.input.num_frames, encoder.input.window_s) == (32, Fraction(32, 10))
    size = encoder.input.size
    assert (size.short_side_px, size.crop_px, size.antialias) == (224, 224, True)
    pixels = encoder.preparation.clips([sample], torch.device("cpu"))
    assert (pixels[0].permute(1, 2, 3, 0).numpy() * 255).round().astype(np.uint8).tolist() == sample.data.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": "15"}, "'num_frames': Input should be a multiple of 2"),
        ({"crop_px": "201"}, "'crop_px': Input should be a multiple of 2"),
        ({"crop_px": "256"}, "crop_px 256 does not fit into short_side_px 224"),
        ({"tap": "mixed_4f"}, "'mixed_5c' or 'joint'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        MilNce.Options.parse(options, where="encoder 's3d_milnce'")


def test_words_and_their_numbers():
    assert words_of("Open the DOOR, don't!") == ["open", "the", "door", "don't"]
    assert words_of("a_b 3x — Ölkanne; ...") == ["a_b", "3x", "ölkanne"]
    dictionary = numbered(WORDS)
    assert word_numbers("Open the DOOR, don't!", dictionary) == [1, 5, 2, 9]
    assert word_numbers("unknown words and the egg", dictionary) == [5, 11]
    assert word_numbers("egg " * 20, dictionary) == [11] * 16


def test_the_worked_sentences(text):
    rows = text.encode(spoken("open door", "zzyzx", "", "Open the DOOR, don't!"))
    lengths = np.linalg.norm(rows.fields["features"], axis=1)
    assert lengths[:3] == pytest.approx([4.39457151, 2.90336417, 2.90336417], rel=TOLERANCE)
    assert rows.fields["tokens"].tolist() == [2, 0, 0, 4]
    assert rows.fields["token_ids"][3].tolist() == [1, 5, 2, 9] + [0] * 12
    assert rows.strings("text")[3] == "Open the DOOR, don't!"
    assert rows.strings("key")[0] == "kopen door"
    assert rows.fields.keys() == text.stream().fields.keys()


def test_sentences_alone_and_together_are_the_same(text):
    sentences = spoken("cut the tomato", "pour water")
    together = text.encode(sentences).fields["features"]
    alone = np.concatenate([text.encode([sentence]).fields["features"] for sentence in sentences])
    assert np.abs(together - alone).max() <= 1e-6 * np.abs(alone).max()


def test_untrained_sentences_need_no_list_of_words(build_encoder):
    encoder = build_encoder("milnce_text", weights="random:0")
    rows = encoder.encode(spoken("open door", "door open", "shut door")).fields
    assert rows["tokens"].tolist() == [2, 2, 2]
    assert np.array_equal(rows["features"][0], rows["features"][1])  # a bag of words
    assert not np.array_equal(rows["features"][0], rows["features"][2])
    assert str(encoder.stream().preprocessing["words_sha256"]).startswith("none: ")


def test_both_files_are_asked_for_before_any_work(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="vidloc weights fetch s3d_milnce\n"):
        MilNceText.check_weights(MilNceText.Options(), name="milnce_text")
    with pytest.raises(WeightsError, match="vidloc weights fetch s3d_milnce_words\n"):
        MilNceText.check_weights(MilNceText.Options(weights=str(checkpoint)), name="milnce_text")
    MilNceText.check_weights(MilNceText.Options(weights="random:0"), name="milnce_text")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array(["open", 3], dtype=object), "does not load as a NumPy list of words"),
        (np.arange(3), "holds int64 of shape .*expected a list of words"),
        (np.array([str(k) for k in range(66_250)]), "lists 66250 words; the weights have 66249"),
    ],
    ids=["objects", "numbers", "too many"],
)
def test_lists_that_do_not_fit_are_refused(content, message, build_encoder, tmp_path):
    path = tmp_path / "words.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(WeightsError, match=message):
        build_encoder("milnce_text", weights="random:0", words=path)


def test_half_of_the_checkpoint_is_refused_by_name(build_encoder, tmp_path):
    path = tmp_path / "video_only.pth"
    torch.save(GatedS3D().state_dict(), path)
    with pytest.raises(WeightsError, match=r"does not fit WordsToJoint: missing: word_embd\.weight"):
        build_encoder("milnce_text", weights=path, words=path)
