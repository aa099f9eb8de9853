"""Checkpoints in the layouts of their publishers load strictly, where no other test of the encoder does that already.

The files are small: each tensor is filled along its first axis and repeated along the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torchvision import models

from vidloc.extract import weights
from vidloc.extract.pytorchvideo_nets import hub
from vidloc.extract.r2plus1d import ig65m_34
from vidloc.testing.deterministic_fill import fill

CAFFE = {"classifier.0.": "classifier.1.", "classifier.3.": "classifier.4."}


@dataclass
class Layout:
    """A published file: which network it is of, what its names are, and where they lie."""

    network: Callable[..., torch.nn.Module]
    classifier: str
    wrapper: str = ""
    theirs: Callable[[str], str] = str
    options: Mapping[str, object] = field(default_factory=dict)


LAYOUTS = {
    "slowfast_r101": Layout(hub.slowfast_r101, "blocks.6.proj", wrapper="model_state"),
    "resnet34": Layout(models.resnet34, "fc"),
    "resnet152": Layout(models.resnet152, "fc"),
    "vgg19": Layout(models.vgg19, "classifier.6"),
    "vgg19_caffe": Layout(
        models.vgg19,
        "classifier.6",
        theirs=lambda name: CAFFE.get(name[:13], name[:13]) + name[13:],
        options={"variant": "caffe"},
    ),
    "r2plus1d_34_clip32": Layout(lambda: ig65m_34(400), "fc"),
}


def repeated(name, like):
    if not like.shape:
        return torch.zeros((), dtype=like.dtype)  # a norm's counter
    first = torch.from_numpy(fill(name, (len(like),)))
    return first.view(-1, *[1] * (like.dim() - 1)).expand(like.shape)


@pytest.mark.parametrize("published", LAYOUTS)
def test_a_published_layout_loads(published, build_encoder, tmp_path):
    layout = LAYOUTS[published]
    with torch.device("meta"):
        network = layout.network()
    own = {name: repeated(name, tensor) for name, tensor in network.state_dict().items()}
    state = {layout.theirs(name): tensor for name, tensor in own.items()}
    path = tmp_path / weights.PUBLISHED[published].file_name
    torch.save({layout.wrapper: state} if layout.wrapper else state, path)
    assert path.stat().st_size < 4e6
    encoder = build_encoder(published.removesuffix("_caffe"), weights=path, scores=True, **layout.options)
    classifier = encoder.network.get_submodule(layout.classifier)
    assert torch.equal(classifier.weight, own[f"{layout.classifier}.weight"])
    assert torch.equal(classifier.bias, own[f"{layout.classifier}.bias"])
