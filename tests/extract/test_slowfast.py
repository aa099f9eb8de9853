"""SlowFast against pytorchvideo's own network called plainly on the same pixels and weights."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from vidloc.errors import OptionError, WeightsError
from vidloc.extract.class_names import read_class_names
from vidloc.extract.pytorchvideo_nets import hub  # imported there, with its warning filtered
from vidloc.extract.slowfast import NAMES, SLOW_INDICES, SlowFast
from vidloc.testing.deterministic_fill import fill, filled

TOLERANCE = 1e-5  # of the maximum


def plainly(network, frames):
    """The head's own output with an identity for its projection: the averaged input of the classifier."""
    clip = ((torch.from_numpy(frames).float() / 255 - 0.45) / 0.225).permute(3, 0, 1, 2)[None]
    slow = torch.linspace(0, 31, 8).long()
    with torch.inference_mode():
        return network([clip[:, :, slow], clip]).numpy()[0]


@pytest.fixture(scope="module")
def plain():
    network = hub.slowfast_r50().eval()
    network.load_state_dict(filled(network.state_dict()))
    return network


@pytest.fixture(scope="module")
def checkpoint(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "SLOWFAST_8x8_R50.pyth"
    torch.save({"model_state": plain.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def encoder(checkpoint, build_encoder):
    return build_encoder("slowfast_r50", weights=checkpoint)


@pytest.fixture(scope="module")
def headless(plain, encoder):
    # After `checkpoint` was written from the whole network.
    plain.blocks[-1].proj = nn.Identity()
    return plain


def features(encoder, *samples):
    return encoder.encode(samples).fields["features"]


def close(a, b):
    return np.abs(a - b).max() <= TOLERANCE * np.abs(b).max()


def test_slow_frames_are_eight_points_over_the_clip_truncated():
    assert SLOW_INDICES == (0, 4, 8, 13, 17, 22, 26, 31) == tuple(torch.linspace(0, 31, 8).long().tolist())


def test_the_network_is_the_published_one(checkpoint):
    state = torch.load(checkpoint, weights_only=True)["model_state"]
    counted = [k for k in state if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert len(state) == 662
    assert sum(state[k].numel() for k in counted) == 34_566_488


def test_the_deeper_network_is_the_published_one():
    with torch.device("meta"):
        network = hub.slowfast_r101()
    assert sum(p.numel() for p in network.parameters()) == 62_826_968
    assert network.blocks[0].multipathway_fusion.conv_fast_to_slow.kernel_size == (5, 1, 1)
    assert len(network.blocks[3].multipathway_blocks[0].res_blocks) == 23


@pytest.fixture(scope="module")
def sample(clip):
    return clip("slowfast", 32, 224)


@pytest.fixture(scope="module")
def row(encoder, sample):
    return features(encoder, sample)[0]


def test_rows_equal_the_plain_network_at_224(headless, sample, row):
    assert row.dtype == np.float32
    assert close(row, plainly(headless, sample.data))


def test_scores_equal_the_plain_networks_output(checkpoint, build_encoder, sample, row):
    encoder = build_encoder("slowfast_r50", weights=checkpoint, scores=True)
    rows = encoder.encode([sample]).fields
    assert close(rows["features"][0], row)
    state = torch.load(checkpoint, weights_only=True)["model_state"]
    # Linear, so that the head's mean over positions is the projection of the mean.
    expected = row @ state["blocks.6.proj.weight"].numpy().T + state["blocks.6.proj.bias"].numpy()
    assert close(rows["scores"][0], expected)


def test_at_256_the_row_is_the_mean_of_four_positions(encoder, headless, clip):
    larger, shapes = clip("larger", 32, 256), []
    hook = encoder.network.blocks[5].register_forward_hook(lambda module, maps, joined: shapes.append(joined.shape))
    rows = features(encoder, larger)
    hook.remove()
    assert shapes == [(1, 2304, 1, 2, 2)]
    assert close(rows[0], plainly(headless, larger.data))


def test_slow_numbers_come_before_fast_ones(encoder, sample, row):
    # The fast pathway gets nothing from the slow one: other slow frames change the first 2048 numbers only.
    fast = ((torch.from_numpy(sample.data).float() / 255 - 0.45) / 0.225).permute(3, 0, 1, 2)[None]
    maps = [torch.zeros_like(fast[:, :, list(SLOW_INDICES)]), fast]
    with torch.inference_mode():
        for block in encoder.network.blocks[:-1]:
            maps = block(maps)
    other = maps.numpy().reshape(2304)
    assert close(other[2048:], row[2048:])
    assert not close(other[:2048], row[:2048])


def test_a_batch_equals_its_members(encoder, clip, sample, row):
    together = features(encoder, sample, clip("second", 32, 224))
    assert close(together[0], row)
    assert not close(together[1], row)


@pytest.fixture(scope="module")
def epic(checkpoint, tmp_path_factory):
    """The layout of the EPIC-KITCHENS-100 release: PySlowFast's names, two classifiers, and more than tensors."""
    state = torch.load(checkpoint, weights_only=True)["model_state"]
    theirs = {pyslowfast_name(name): tensor for name, tensor in state.items() if not name.startswith("blocks.6")}
    for task, classes in {"verb": 97, "noun": 300}.items():
        shapes = {"weight": (classes, 2304), "bias": (classes,)}
        theirs |= {
            name: torch.from_numpy(fill(name, shape))
            for kind, shape in shapes.items()
            for name in [f"head.projection_{task}.{kind}"]
        }
    assert len(theirs) == 664
    path = tmp_path_factory.mktemp("epic") / "SlowFast.pyth"
    torch.save({"epoch": 30, "model_state": theirs, "optimizer_state": {}, "cfg": "NUM_GPUS: 8"}, path)
    return path


def test_pyslowfast_checkpoint_of_epic_loads_and_gives_the_same_rows(epic, encoder, build_encoder, sample, row):
    tuned = build_encoder("slowfast_r50", weights=epic, window_s="16/15", crop_px=224)
    assert np.array_equal(features(tuned, sample)[0], row)
    assert tuned.input.window_s == Fraction(16, 15)
    assert tuned.input.size.crop_px == 224
    assert tuned.weights_sha256 != encoder.weights_sha256


@pytest.fixture(scope="module")
def class_files(tmp_path_factory):
    """Names of classes as EPIC publishes them, and one per line."""
    folder = tmp_path_factory.mktemp("classes")
    verbs = "".join(f"{k},verb {k},\"['a, b', 'c']\",group\n" for k in range(97))
    (folder / "verbs.csv").write_text("id,key,instances,category\n" + verbs)
    (folder / "nouns.txt").write_text("".join(f"noun {k}\n" for k in range(300)))
    return {"classes_verb": folder / "verbs.csv", "classes_noun": folder / "nouns.txt"}


def test_two_classifiers_give_two_fields_of_scores_with_their_class_names(
    epic, build_encoder, class_files, sample, row
):
    scored = build_encoder("slowfast_r50", weights=epic, crop_px=224, scores=True, **class_files)
    rows = scored.encode([sample]).fields
    assert close(rows["features"][0], row)
    state = torch.load(epic, weights_only=True)["model_state"]
    for task in ("verb", "noun"):
        weight, bias = (state[f"head.projection_{task}.{kind}"].numpy() for kind in ("weight", "bias"))
        assert close(rows[f"scores_{task}"][0], row @ weight.T + bias)
    template = scored.stream()
    assert {name: spec.row_shape for name, spec in template.fields.items()} == {
        "features": (2304,),
        "scores_verb": (97,),
        "scores_noun": (300,),
    }
    classes = template.preprocessing["classes"]
    assert (classes["scores_verb"][96], classes["scores_noun"][299]) == ("verb 96", "noun 299")
    assert template.vocabulary == ()


def test_class_names_that_do_not_go_with_the_classifiers_are_refused(epic, build_encoder, class_files):
    nouns = class_files["classes_noun"]
    with pytest.raises(
        OptionError,
        match=r"nouns\.txt names classes .* 'scores', .* have scores_verb and .*: classes_verb, classes_noun",
    ):
        build_encoder("slowfast_r50", weights=epic, scores=True, classes=nouns)
    with pytest.raises(OptionError, match=r"'scores_noun', these weights have scores\. .*: classes\."):
        build_encoder("slowfast_r50", weights="random:0", scores=True, classes_noun=nouns)
    with pytest.raises(OptionError, match=r"nouns\.txt names 300 classes, the weights have 97"):
        build_encoder("slowfast_r50", weights=epic, scores=True, classes_verb=nouns)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id,key\n0,take\n2,put\n", r"the row '2,put' is not id 1"),
        ("name,id\ntake,0\n", r"begins with the columns name, id; .* id,key"),
        ("verb_id,class_key\n", r"names no class"),
        ("", r"begins with the columns \(none\)"),
    ],
)
def test_tables_of_class_names_are_read_strictly(tmp_path, table, message):
    (tmp_path / "verbs.csv").write_text(table)
    with pytest.raises(OptionError, match=message):
        read_class_names(tmp_path / "verbs.csv")


def test_the_class_lists_of_both_editions_of_epic_are_read(shared):
    lists = {"epic100/EPIC_100_verb_classes": (97, "take"), "epic55/EPIC_noun_classes": (352, "Nothing")}
    for name, (count, first) in lists.items():
        names = read_class_names(shared / "data" / f"{name}.csv")
        assert (len(names), names[0]) == (count, first)


@pytest.mark.parametrize("name", NAMES)
def test_pyslowfast_names_of_either_depth(name):
    with torch.device("meta"):
        names = getattr(hub, name)().state_dict().keys()
    # Its one classifier is called head.projection; the others are in the test above.
    theirs = {n: n.replace("blocks.6.proj", "head.projection") if "proj" in n else pyslowfast_name(n) for n in names}
    assert not theirs.keys() & set(theirs.values())
    mapped = SlowFast.layout.renamed({their: torch.empty(1, device="meta") for their in theirs.values()})
    assert mapped.keys() == set(names)
    assert all(SlowFast.layout.name(their) == n for n, their in theirs.items() if "proj" not in n)


def test_classifiers_that_do_not_fit_together_are_named(build_encoder, tmp_path):
    path = tmp_path / "SlowFast.pyth"
    torch.save(
        {f"head.projection_{t}.weight": torch.zeros(9, n) for t, n in {"verb": 2304, "noun": 2048}.items()}, path
    )
    with pytest.raises(WeightsError, match=r"not known to the network: head\.projection_verb\.weight"):
        build_encoder("slowfast_r50", weights=path, scores=True)


def pyslowfast_name(name: str) -> str:
    """PySlowFast's name of a tensor of pytorchvideo, from the key map read from right to left."""
    stage = int(name.split(".")[1]) + 1
    name = re.sub(r"^blocks\.0\.multipathway_blocks\.(\d)\.conv\.", r"s1.pathway\1_stem.conv.", name)
    name = re.sub(r"^blocks\.0\.multipathway_blocks\.(\d)\.norm\.", r"s1.pathway\1_stem.bn.", name)
    name = re.sub(r"^blocks\.\d\.multipathway_fusion\.conv_fast_to_slow\.", f"s{stage}_fuse.conv_f2s.", name)
    name = re.sub(r"^blocks\.\d\.multipathway_fusion\.norm\.", f"s{stage}_fuse.bn.", name)
    name = re.sub(r"^blocks\.\d\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.", rf"s{stage}.pathway\1_res\2.", name)
    name = name.replace("branch1_conv.", "branch1.").replace("branch1_norm.", "branch1_bn.")
    return re.sub(
        r"branch2\.norm_([abc])\.", r"branch2.\1_bn.", re.sub(r"branch2\.conv_([abc])\.", r"branch2.\1.", name)
    )


def test_every_norm_is_folded_and_the_input_is_as_published(encoder):
    assert not [m for m in encoder.network.modules() if isinstance(m, nn.BatchNorm3d)]
    wanted = encoder.input
    assert (wanted.num_frames, wanted.window_s) == (32, Fraction(64, 30))
    assert (wanted.size.short_side_px, wanted.size.crop_px, wanted.size.antialias) == (256, 256, False)
    assert encoder.stream().fields["features"].row_shape == (2304,)
    assert encoder.weights_name == "SLOWFAST_8x8_R50.pyth"


def test_another_networks_checkpoint_is_refused_by_name(checkpoint, build_encoder, tmp_path):
    state = torch.load(checkpoint, weights_only=True)["model_state"]
    gone = "blocks.0.multipathway_blocks.0.conv.weight"
    path = tmp_path / "short.pyth"
    torch.save({name: t for name, t in state.items() if name != gone} | {"extra.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=rf"missing: {re.escape(gone)}\. not known to the network: extra\.weight"):
        build_encoder("slowfast_r50", weights=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_px": "200"}, "greater than or equal to 224"),
        ({"short_side_px": "224"}, "crop_px 256 does not fit into short_side_px 224"),
        ({"window_s": "0"}, "greater than 0"),
        ({"precision": "half"}, "'float32', 'tf32', 'bfloat16' or 'float16'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        SlowFast.Options.parse(options, where="encoder 'slowfast_r50'")


def test_arithmetic_of_gpus_is_refused_on_a_cpu(build_encoder):
    with pytest.raises(OptionError, match="precision=tf32 needs a GPU"):
        build_encoder("slowfast_r50", weights="random:0", precision="tf32")
