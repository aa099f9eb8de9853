"""Deliberately wrong heads, encoders and stores are found out, each by the check that is meant for it."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydantic import Field
from torch import nn

from vidloc.cli import vidloc
from vidloc.core.lanes import Bar, Bars, Curves, Mark, Marks
from vidloc.core.records import Prediction, Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Span
from vidloc.errors import StoreError, UnknownNameError, VidlocError
from vidloc.extract.base import AudioInput, ClipInput, Encoder, EncoderOptions, FrameSize, StreamTemplate
from vidloc.heads.base import Head, SegmentOptions, StreamNeed
from vidloc.heads.layers import label_losses, masked_mean
from vidloc.heads.recognition import recognised
from vidloc.stores.base import StreamSpec, create_store
from vidloc.testing import store_checks
from vidloc.testing.checking import Outcome, run_checks
from vidloc.testing.checks import check
from vidloc.testing.encoder_checks import ENCODER_CHECKS, EncoderCase
from vidloc.testing.head_checks import HEAD_CHECKS, HeadCase
from vidloc.testing.store_checks import BACKEND_CHECKS, BackendCase
from vidloc.testing.synthetic_store import write_all


def broken(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.check: outcome.sentence for outcome in outcomes if not outcome.passed}


class GoodHead(Head):
    task = "recognition"
    needs: ClassVar = {"visual": StreamNeed(("clip",))}
    Options = SegmentOptions
    source = Source(paper="A paper")

    def __init__(self, options, dims, labels):
        super().__init__(options, dims, labels)
        self.classifiers = nn.ModuleDict(
            {task: nn.Linear(dims["visual"], len(names)) for task, names in labels.items()}
        )

    def pooled(self, rows):
        return masked_mean(rows.features, rows.mask)

    def logits(self, batch):
        pooled = self.pooled(batch.rows["visual"])
        return {task: layer(pooled) for task, layer in self.classifiers.items()}

    def loss(self, batch):
        losses = label_losses(self.logits(batch), batch.labels)
        return {"total": sum(losses.values()), **losses}

    def predict(self, batch):
        return recognised(batch, self.logits(batch))


class SilentOptions(SegmentOptions):
    width: int = 3
    depth: int = Field(2, description=" ")


class SilentOption(GoodHead):
    Options = SilentOptions


class NoSource(GoodHead):
    source = Source(code="https://example.org")


class InfiniteLoss(GoodHead):
    def loss(self, batch):
        return {"total": super().loss(batch)["total"] / 0.0}


class NoTotal(GoodHead):
    def loss(self, batch):
        return label_losses(self.logits(batch), batch.labels)


class UnusedLayer(GoodHead):
    def __init__(self, options, dims, labels):
        super().__init__(options, dims, labels)
        self.spare = nn.Linear(2, 2)


class CountsPadding(GoodHead):
    def pooled(self, rows):
        return rows.features.sum(dim=1) / rows.features.shape[1]


class NormalisesOverBatch(GoodHead):
    def pooled(self, rows):
        pooled = super().pooled(rows)
        return pooled - pooled.mean(dim=0)


class SpansBeyondVideo(GoodHead):
    def predict(self, batch):
        return [p.model_copy(update={"span": Span(p.span[0], p.span[1] + 100)}) for p in super().predict(batch)]


class UnknownClass(GoodHead):
    def predict(self, batch):
        return [p.model_copy(update={"label": "juggle"}) for p in super().predict(batch)]


class LeavesSegmentsOut(GoodHead):
    def predict(self, batch):
        return [p for p in super().predict(batch) if p.query_id != "item_0_0"]


class TooFewScores(GoodHead):
    def predict(self, batch):
        scores = {"verb": (0.0,)}
        return [
            Prediction(item_id=s.item_id, span=s.span, score=0.5, query_id=s.id, scores=scores) for s in batch.samples
        ]


class UnseededWeights(GoodHead):
    calls = 0

    def __init__(self, options, dims, labels):
        super().__init__(options, dims, labels)
        type(self).calls += 1
        self.register_buffer("offset", torch.full((1,), float(type(self).calls)))


class DrawsGlobally(GoodHead):
    def fit(self, data, run):
        torch.rand(1)
        super().fit(data, run)


class ForgetsOnSave(GoodHead):
    def __init__(self, options, dims, labels):
        super().__init__(options, dims, labels)
        self.offset = 0.0

    def prepare(self, data):
        self.offset = 1.0

    def pooled(self, rows):
        return super().pooled(rows) + self.offset


class MissesLanes(GoodHead):
    def lanes(self, batch, kept):
        return [()]


class OneNameTwice(GoodHead):
    def lanes(self, batch, kept):
        return [(Bars("rows", ()), Marks("rows", ()))] * len(batch)


class MarksBeyondVideo(GoodHead):
    def lanes(self, batch, kept):
        return [(Marks("peaks", (Mark(sample.span.end_s + 100),)),) for sample in batch.samples]


class UndefinedCurve(GoodHead):
    def lanes(self, batch, kept):
        curve = Curves("gain", np.zeros(1), {"gain": np.array([np.nan])})
        return [(curve,)] * len(batch)


class LanesOfNeighbours(GoodHead):
    def lanes(self, batch, kept):
        return [(Bars("batch", (Bar(batch.samples[-1].span),)),)] * len(batch)


HEADS = [
    (SilentOption, "options_have_help", "without help: width, depth"),
    (NoSource, "source_filled_in", "source.paper is empty"),
    (InfiniteLoss, "loss_finite", "loss 'total' is inf"),
    (NoTotal, "loss_finite", r"loss() returns ['noun', 'verb'], without 'total'"),
    (UnusedLayer, "every_parameter_gets_a_gradient", "does not reach: spare.weight, spare.bias"),
    (CountsPadding, "padding_changes_nothing", "padded rows change the predictions"),
    (NormalisesOverBatch, "one_equals_many", "a sample alone is predicted otherwise than in a batch"),
    (SpansBeyondVideo, "predictions_sensible", "does not lie in the video, which is"),
    (UnknownClass, "predictions_sensible", "label 'juggle' is no class; known: cup, knife"),
    (LeavesSegmentsOut, "predictions_sensible", "segments without an answer: ['item_0_0']"),
    (TooFewScores, "predictions_sensible", "1 scores for task 'verb' of 3 classes"),
    (MissesLanes, "lanes_sensible", "lanes() answers for 1 of"),
    (OneNameTwice, "lanes_sensible", "the lanes need names, each its own, and are ['rows', 'rows']"),
    (MarksBeyondVideo, "lanes_sensible", "lane 'peaks' reaches from 0.000 to"),
    (UndefinedCurve, "lanes_sensible", "lane 'gain' has numbers that are not finite"),
    (LanesOfNeighbours, "lanes_sensible", "a sample alone has other lanes than in a batch: batch"),
    (UnseededWeights, "same_seed_same_result", "differ in: offset"),
    (DrawsGlobally, "same_seed_same_result", "draws from torch's global generator"),
    (ForgetsOnSave, "save_and_load", "a head loaded from its file predicts otherwise"),
]


def test_a_good_head_passes():
    assert broken(run_checks(HEAD_CHECKS, HeadCase(GoodHead))) == {}


@pytest.mark.parametrize(("head", "check_name", "sentence"), HEADS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_head_is_found_out(head, check_name, sentence):
    found = broken(run_checks(HEAD_CHECKS, HeadCase(head)))
    assert sentence in found[check_name]
    if head not in (InfiniteLoss, NoTotal, CountsPadding):  # these stop training, or differ by batch as well
        assert list(found) == [check_name]


class GoodEncoder(Encoder):
    Options = EncoderOptions

    def __init__(self, options, *, name, device):
        super().__init__(options, name=name, device=device)
        self.weights_name = self.weights_sha256 = "random:0"

    @property
    def input(self):
        return AudioInput(num_samples=100, sample_rate_hz=16_000)

    def stream(self):
        fields = {"features": FieldSpec(row_shape=(2,), dtype="float16")}
        return StreamTemplate("audio", fields, Source(paper="A paper", licence="MIT"), {})

    def encode(self, samples):
        return Rows.dense(features=np.float32([[s.data.mean(), s.data.std()] for s in samples]))


class SillyInput(GoodEncoder):
    @property
    def input(self):
        return ClipInput(num_frames=8, window_s=Fraction(0), size=FrameSize(short_side_px=16, crop_px=16))

    def encode(self, samples):
        return Rows.dense(features=np.float32([[s.data.mean(), s.data.std()] for s in samples]))


class CropBeyondFrame(SillyInput):
    @property
    def input(self):
        return ClipInput(num_frames=8, window_s=Fraction(1), size=FrameSize(short_side_px=16, crop_px=32))


class SilentEncoderOptions(EncoderOptions):
    gain: float = 1.0


class SilentEncoder(GoodEncoder):
    Options = SilentEncoderOptions


class NoLicence(GoodEncoder):
    def stream(self):
        return StreamTemplate("audio", super().stream().fields, Source(paper="A paper"), {})


class NoHash(GoodEncoder):
    def __init__(self, options, *, name, device):
        super().__init__(options, name=name, device=device)
        self.weights_sha256 = "published"


class OtherField(GoodEncoder):
    def encode(self, samples):
        return Rows.dense(embedding=super().encode(samples).fields["features"])


class OtherWidth(GoodEncoder):
    def encode(self, samples):
        return Rows.dense(features=super().encode(samples).fields["features"][:, :1])


class CastsItself(GoodEncoder):
    def encode(self, samples):
        return Rows.dense(features=super().encode(samples).fields["features"].astype(np.float16))


class NotFinite(GoodEncoder):
    def encode(self, samples):
        return Rows.dense(features=super().encode(samples).fields["features"] * np.float32(np.inf))


class DependsOnBatch(GoodEncoder):
    def encode(self, samples):
        return Rows.dense(features=super().encode(samples).fields["features"] * np.float32(len(samples)))


class ReversesBatch(GoodEncoder):
    def encode(self, samples):
        return super().encode(samples[::-1])


class Stateful(GoodEncoder):
    calls = 0

    def encode(self, samples):
        self.calls += 1
        # Alone first, again third: only a repeated sample sees the difference.
        return Rows.dense(features=super().encode(samples).fields["features"] + np.float32(1e-6 * self.calls))


class WritesIntoSamples(GoodEncoder):
    def encode(self, samples):
        rows = super().encode(samples)
        for sample in samples:
            sample.data[:] = np.sort(sample.data)
        return rows


class DrawsWhileBuilding(GoodEncoder):
    def __init__(self, options, *, name, device):
        super().__init__(options, name=name, device=device)
        torch.rand(1)


class DrawsWhileEncoding(GoodEncoder):
    def encode(self, samples):
        np.random.random()  # noqa: NPY002  (the legacy generator is what must not be touched)
        return super().encode(samples)


ENCODERS = [
    (SillyInput, "input_sane", "input asks for window_s = 0, expected more than 0"),
    (CropBeyondFrame, "input_sane", "cuts 32 pixels out of 16"),
    (SilentEncoder, "options_have_help", "without help: gain"),
    (NoLicence, "source_filled_in", "source.licence is empty"),
    (NoHash, "weights_stated", "weights_sha256 is 'published', expected 64 hex digits"),
    (OtherField, "rows_as_declared", "returns fields ['embedding'], stream() declares ['features']"),
    (OtherWidth, "rows_as_declared", "has entries (1,), stream() declares (2,)"),
    (CastsItself, "rows_as_declared", "is float16, expected float32 (stored as float16)"),
    (NotFinite, "rows_as_declared", "values that are not finite"),
    (DependsOnBatch, "batch_equals_members", "gives another row in a batch than alone"),
    (ReversesBatch, "order_kept", "rows must keep the order of the samples"),
    (Stateful, "deterministic", "gives another row the second time"),
    (WritesIntoSamples, "samples_left_alone", "changes the data of its samples"),
    (DrawsWhileBuilding, "generators_left_alone", "building draws from the global generator of torch"),
    (DrawsWhileEncoding, "generators_left_alone", "encoding draws from the global generator of numpy"),
]


def test_a_good_encoder_passes():
    assert broken(run_checks(ENCODER_CHECKS, EncoderCase(GoodEncoder, "good"))) == {}


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # inf - inf, in the encoder that returns it
@pytest.mark.parametrize(("encoder", "check_name", "sentence"), ENCODERS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_wrong_encoder_is_found_out(encoder, check_name, sentence):
    found = broken(run_checks(ENCODER_CHECKS, EncoderCase(encoder, "wrong")))
    assert sentence in found[check_name]
    if encoder is not NotFinite:  # whose rows can be compared with nothing
        assert list(found) == [check_name]


class Wrapped:
    """A store that forwards all but what a subclass spoils."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    def __enter__(self):
        self._store.__enter__()
        return self

    def __exit__(self, *error):
        return self._store.__exit__(*error)

    def __reduce__(self):
        return type(self), (self._store,)


class OffByOne(Wrapped):
    def read(self, stream, item, rows=None):
        found = self._store.read(stream, item)
        return found if rows is None else found[slice(rows.start + 1, rows.stop + 1)]


class IgnoresOut(Wrapped):
    def read_field(self, stream, item, field="features", rows=None, out=None):
        return np.array(self._store.read_field(stream, item, field, rows))


class RoundsTimes(Wrapped):
    def timeline(self, stream, item):
        found = self._store.timeline(stream, item)
        return None if found is None else store_checks.Spans(found.spans(self._store.entry(stream, item).num_rows))


class DigestOfOrder(Wrapped):
    def digest(self):
        return str(self._store.path)


class QuietAboutNames(Wrapped):
    def read(self, stream, item, rows=None):
        return self._store.read("vectors" if stream == "nothing" else stream, item, rows)


class MixesOrigins(Wrapped):
    def add_stream(self, spec):
        if spec.name not in self._store.streams():
            self._store.add_stream(spec)


class TakesAnything(Wrapped):
    def write(self, stream, item, rows, timeline, *, extent=None):
        pass


class ForgetsReasons(Wrapped):
    def mark(self, stream, item, status, reason):
        self._store.mark(stream, item, status, "it did not work")


class CommitsAtClose(Wrapped):
    def discard(self, item):
        self._store.commit(item)


READERS = [
    (OffByOne, "rows_come_back", "rows slice(1, 4"),
    (IgnoresOut, "rows_come_back", "does not fill the array it was given"),
    (RoundsTimes, "times_come_back", "timeline"),
    (DigestOfOrder, "digest_of_content_alone", "content id after writing items in another order"),
    (QuietAboutNames, "unknown_names_refused", "an unknown stream raises no StreamNotFoundError"),
]
WRITERS = [
    (MixesOrigins, "other_origin_refused", "was continued although its origin differs in weights_sha256"),
    (TakesAnything, "unfit_rows_refused", "rows with another width were taken"),
    (ForgetsReasons, "statuses_come_back", "it did not work"),
    (CommitsAtClose, "only_commits_remain", "items after one commit: found ['discarded', 'kept']"),
]


@pytest.mark.parametrize(
    ("where", "wrong", "check_name", "sentence"),
    [("open_store", *case) for case in READERS] + [("create_store", *case) for case in WRITERS],
)
def test_a_wrong_store_is_found_out(tmp_path, monkeypatch, where, wrong, check_name, sentence):
    original = getattr(store_checks, where)
    monkeypatch.setattr(store_checks, where, lambda *args, **kwargs: wrong(original(*args, **kwargs)))
    checks = [c for c in BACKEND_CHECKS if c.__name__ == check_name]
    assert sentence in broken(run_checks(checks, BackendCase("zarr", tmp_path)))[check_name]


def test_a_second_writer_that_gets_in_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(store_checks, "append_to_store", lambda path: create_store(tmp_path / "elsewhere.zarr"))
    found = broken(run_checks([store_checks.second_writer_refused], BackendCase("zarr", tmp_path)))
    assert found == {"second_writer_refused": "a second writer was let in while the first one was open."}


def test_flipped_bits_in_a_store_are_found(tmp_path):
    path = tmp_path / "feats.zarr"
    with create_store(path) as writer:
        write_all(writer)
    assert check(str(path)).passed
    (chunk,) = [
        p for p in (path / "streams" / "vectors" / "features").rglob("*") if p.is_file() and p.name != "zarr.json"
    ]
    data = bytearray(chunk.read_bytes())
    data[5] ^= 4
    chunk.write_bytes(data)
    found = {o.check: o.sentence for o in check(str(path)).outcomes if not o.passed}
    assert list(found) == ["digests_match"]
    assert "stream 'vectors', item 'a.mp4'" in found["digests_match"]


def test_a_stream_of_unknown_origin_is_found(tmp_path):
    path = tmp_path / "feats.zarr"
    with create_store(path) as writer:
        fields = {"features": FieldSpec(row_shape=(2,), dtype="float32")}
        writer.add_stream(StreamSpec(name="mystery", kind="clip", fields=fields, encoder="something"))
    found = {o.check: o.sentence for o in check(str(path)).outcomes if not o.passed}
    assert found == {"provenance_stated": "stream 'mystery' does not state its weights_sha256; nobody could repeat it."}


def test_what_a_check_raises_is_told():
    def explodes(_):
        raise ZeroDivisionError("division by zero")

    def refuses(_):
        raise StoreError("the store is damaged.")

    assert run_checks([explodes, refuses], None) == [
        Outcome("explodes", passed=False, sentence="raised ZeroDivisionError: division by zero"),
        Outcome("refuses", passed=False, sentence="stopped with: the store is damaged."),
    ]


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("sapnett", UnknownNameError, r"no head, encoder, backend or store 'sapnett'\. Did you mean sapnet\?"),
        ("./nothing.py", UnknownNameError, r"there is no file 'nothing\.py'"),
        ("neither.py", VidlocError, "assigns neither HEAD nor ENCODER"),
        ("broken.py", VidlocError, r"broken\.py is not Python"),
        ("folder", StoreError, "folder"),
    ],
)
def test_targets_that_are_nothing(tmp_path, monkeypatch, target, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neither.py").write_text("X = 1\n")
    (tmp_path / "broken.py").write_text("def\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(error, match=message):
        check(target)


def test_the_command_prints_sentences_and_exits_3(tmp_path):
    path = tmp_path / "spare_head.py"
    path.write_text(
        "from vidloc.core.records import Source\n"
        "from vidloc.heads.two_branch import TwoBranch\n\n\n"
        "class NoPaper(TwoBranch):\n    source = Source()\n\n\nHEAD = NoPaper\n"
    )
    result = CliRunner().invoke(vidloc, ["check", str(path)])
    assert result.exit_code == 3
    assert f"{path}: head ({path})" in result.stdout
    assert "  FAIL  source filled in: source.paper is empty" in result.stdout
    assert "10 of 11 checks passed." in result.stdout
    found = json.loads(CliRunner().invoke(vidloc, ["check", str(path), "--json"]).stdout)
    assert (found["what"], found["passed"], len(found["checks"])) == ("head", False, 11)


def test_the_command_takes_options_and_backends():
    result = CliRunner().invoke(vidloc, ["check", "two_branch:dropout=0.2,standardize=true"])
    assert (result.exit_code, "11 of 11 checks passed" in result.stdout) == (0, True)
    assert CliRunner().invoke(vidloc, ["check", "hdf5"]).exit_code == 0
