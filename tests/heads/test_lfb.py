"""LFB: the acceptance checks by number, the windows and operators against loops, and what its options do."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from vidloc.core.records import Segment
from vidloc.core.rows import Rows
from vidloc.core.timeline import Span, Spans, TimeGrid, center_grid, frames_at_cells
from vidloc.errors import OptionError
from vidloc.heads.bank import Bank
from vidloc.heads.bank_operators import NonLocalBlock, NonLocalOperator, average, maximum
from vidloc.heads.bank_window import BankWindow, frame_keys, nearest_row, segment_frames
from vidloc.heads.base import Batch, RowBatch, Sample
from vidloc.heads.lfb import LFB, LFBOptions, TaskModel, bank_window
from vidloc.heads.sampling import RowsAround, SegmentRows, thinned
from vidloc.heads.training import FitData, group_rate, make_optimizer
from vidloc.metrics.actions import action_prior, rank_actions
from vidloc.stores.imports.base import ItemFacts
from vidloc.stores.imports.timing import FrameOptions, FrameRule
from vidloc.testing.checks import check_head
from vidloc.testing.head_checks import HeadCase, MemoryRecorder

VERB, NOUN = BankWindow(40.0), BankWindow(12.0, top=10)
LABELS = {"verb": ("a", "b", "c"), "noun": ("p", "q", "r", "s")}
DIMS = {"verb": 6, "noun": 5, "verb_bank": 7, "noun_bank": 4}


def rows_at(keys, *, each=1) -> RowBatch:
    """One sample's rows filed under keys, as the release's banks are imported; a row holds its key."""
    spans = released_spans(list(keys), "64f")
    features = torch.tensor([float(k) for k in keys for _ in range(each)]).reshape(1, -1, 1)
    mask = torch.ones(features.shape[:2], dtype=torch.bool)
    return RowBatch(features, mask, spans.repeat_interleave(each, dim=0).unsqueeze(0))


def released_spans(keys, window) -> torch.Tensor:
    rule = FrameRule(FrameOptions(fps="30", window=window), layout="lfb", fps_by_item=True)
    return torch.from_numpy(rule.spans(keys, ItemFacts()).array.copy())


def found(window: BankWindow, rows: RowBatch, center: int) -> list[float]:
    """Keys of the rows that a window holds, zeros where padded."""
    return window.rows_in(rows, torch.tensor([center])).features[0, :, 0].tolist()


def bounds(window: BankWindow, center: int) -> tuple[int, int]:
    lower, upper = window.bounds(torch.tensor([center]))
    return int(lower), int(upper)


def made_head(**options) -> LFB:
    torch.manual_seed(0)
    dims = {role: width for role, width in DIMS.items() if role in LFB.needs_for(LFBOptions(**options))}
    return LFB(LFBOptions(**{"latent": 8, **options}), dims, LABELS).eval()


def randomised(head: LFB) -> LFB:
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.5)
    return head


class Reader:
    """A row a second of clips, two regions a second; rows are random, the same at every read."""

    def __init__(self, duration=100, stride=1):
        self.grid, self.count = center_grid(1, stride), int(duration / stride)

    def expect(self, role, items):
        pass

    def keys(self, role, item_id):
        return None

    def timeline(self, role, item_id):
        return self.grid, self.count

    def rows(self, role, item_id):
        random = np.random.default_rng(sorted(DIMS).index(role))
        if role == "noun_bank":
            features = random.normal(size=(self.count, 2, DIMS[role])).astype(np.float32)
            return Rows.ragged("regions", features=list(features))
        return Rows.dense(features=random.normal(size=(self.count, DIMS[role])).astype(np.float32))


def made_bank(options: LFBOptions, spans=((48.0, 53.0), (2.0, 3.0), (95.0, 99.9)), reader=None) -> Bank:
    samples = [
        Sample("v", Span(*s), (Segment(item_id="v", span=Span(*s), labels={"verb": k % 3, "noun": k}, id=str(k)),))
        for k, s in enumerate(spans)
    ]
    return Bank(samples, LFB.sampling(options), reader or Reader(), tasks=("verb", "noun"))


def made_batch(options: LFBOptions, **more) -> Batch:
    bank = made_bank(options, **more)
    return next(bank.batches(len(bank)))


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("center", "looks_at", "kept"), [(600, (0, 1200), 40), (630, (30, 1230), 40), (15, (-585, 615), 20)]
)
def test_check_1_verb_windows(center, looks_at, kept):
    assert (VERB.size, bounds(VERB, center)) == (40, looks_at)
    keys = found(VERB, rows_at(range(30, 6001, 30)), center)
    assert keys == [*range(30, 30 * kept + 1, 30), *[0] * (40 - kept)]


def test_check_2_noun_windows():
    assert (NOUN.size, bounds(NOUN, 600), bounds(NOUN, 15)) == (120, (420, 780), (-165, 195))
    assert bounds(BankWindow(4.5, top=10), 100) == (32, 167)


def test_a_noun_window_is_cut_in_the_middle_of_a_frame_and_padded_where_frames_have_fewer_regions():
    full = found(NOUN, rows_at(range(30, 3001, 30), each=10), 600)  # 13 frames lie in it, 420 to 780
    assert full == [key for key in range(420, 751, 30) for _ in range(10)]
    few = found(NOUN, rows_at(range(30, 3001, 30), each=4), 600)
    assert few == [key for key in range(420, 781, 30) for _ in range(4)] + [0] * (120 - 52)


@pytest.mark.parametrize("window", [VERB, BankWindow(12.0, top=3), BankWindow(7.3, 2.0), BankWindow(4.5, top=10)])
@pytest.mark.parametrize("causal", [False, True])
def test_windows_against_a_loop_over_frames(window, causal):
    window = BankWindow(window.seconds, window.rate_hz, window.top, causal)
    random = np.random.default_rng(0)
    keys = np.sort(random.choice(np.arange(1, 2000), 120, replace=False))
    for center in (1, 15, 444, 1000, 1990, 2500):
        frames = window.seconds * 30
        if causal:
            inside = [k for k in keys if center - frames < k <= center]
        elif window.top:
            lower = int(center - frames / 2)
            inside = [k for k in keys if lower <= k <= int(lower + frames)]
        else:
            inside = [k for k in keys if center - round(frames) // 2 <= k <= center + round(frames) // 2]
        kept = inside[-window.size :] if causal else inside[: window.size]
        assert found(window, rows_at(keys), center) == [*kept, *[0] * (window.size - len(kept))]


def test_check_3_the_clip_of_a_segment_is_the_row_of_64_frames_around_its_middle():
    ends = segment_frames([Span(0.0, 10 / 30)])[0].tolist()
    center = sum(ends) // 2
    assert center == 5
    window = (Fraction(center - 32, 30), Fraction(center + 32, 30))
    times = [Fraction(k, 30) for k in range(40)]
    assert frames_at_cells(window, 32, times).tolist() == [0] * 14 + list(range(1, 36, 2))


@pytest.mark.parametrize(("seconds", "frame"), [(0.14, 4), (3.37, 101), (1211.97, 36359), (3723.05, 111692)])
def test_check_4_times_become_frames(seconds, frame):
    assert segment_frames([Span(0.0, seconds)])[0, 1] == frame


@pytest.mark.parametrize("window", ["64f", "1f"])
def test_rows_of_the_released_banks_have_their_keys_again(window):
    keys = list(range(1, 4000, 7))
    assert frame_keys(released_spans(keys, window)).tolist() == keys


def test_the_clip_is_the_row_nearest_to_the_moment():
    rows = rows_at([31, 61, 91])  # centred at 1, 2 and 3 s
    picked = [float(nearest_row(rows, torch.tensor([c])).features) for c in (0, 44, 45, 46, 500)]
    assert picked == [31, 31, 31, 61, 91]  # the first of two as near


# --- rows around a segment --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stride", "rate", "rows"),
    [
        (1, 1, [0, 1, 2, 3, 4]),
        (Fraction(1, 2), 1, [0, 2, 4, 6, 8]),
        (Fraction(2, 5), 1, [0, 2, 5, 7, 10]),
        (2, 1, [0, 1, 2, 3, 4]),
        (Fraction(30, 29), 1, [0, 1, 2, 3, 4]),
        (1, Fraction(1, 2), [0, 2, 4, 6, 8]),
    ],
)
def test_denser_rows_are_thinned_and_sparser_ones_kept(stride, rate, rows):
    centers = TimeGrid(1, stride).centers(40)
    assert thinned(centers, float(rate))[:5].tolist() == rows


def test_thinning_takes_the_nearest_row_to_each_tick():
    random = np.random.default_rng(0)
    centers = random.uniform(0, 60, 200)
    ticks = centers.min() + np.arange(round(np.ptp(centers)) + 1)
    kept = thinned(centers, 1.0)
    expected = {int(np.abs(centers - tick).argmin()) for tick in ticks if tick <= centers.max() + 0.5}
    assert set(kept.tolist()) == expected
    assert (np.diff(centers[kept]) > 0).all()


def test_rows_around_a_segment_reach_to_both_sides_of_it():
    rule = RowsAround(before_s=3, after_s=1, rate_hz=1)
    assert rule.index(center_grid(1, 1), 100, Span(10, 12)).tolist() == [7, 8, 9, 10, 11, 12]
    backwards = Spans(center_grid(1, 1).spans(100)[::-1])
    assert rule.index(backwards, 100, Span(10, 12)).tolist() == [92, 91, 90, 89, 88, 87]
    assert rule.index(center_grid(1, 1), 100, Span(500, 501)).tolist() == []
    assert rule.index(center_grid(1, 1), 0, Span(0, 1)).tolist() == []


class Regions:
    """Three frames a second apart with 2, 0 and 3 regions, and their scores where asked for."""

    def __init__(self, *, scores):
        self.scores = scores

    def expect(self, role, items):
        pass

    def keys(self, role, item_id):
        return None

    def timeline(self, role, item_id):
        return center_grid(1, 1), 3

    def rows(self, role, item_id):
        fields = {"features": [np.arange(n, dtype=np.float32).reshape(-1, 1) + 10 * t for t, n in enumerate((2, 0, 3))]}
        if self.scores:
            fields["scores"] = [np.array(s, np.float32) for s in ([0.1, 0.9], [], [0.5, 0.2, 0.8])]
        return Rows.ragged("regions", **fields)


@pytest.mark.parametrize(("scores", "values"), [(True, [1, 0, 22, 20]), (False, [0, 1, 20, 21])])
def test_regions_are_served_one_by_one_with_the_times_of_their_frames(scores, values):
    samples = [Sample("v", Span(1.0, 1.5)), Sample("v", Span(90.0, 91.0))]
    bank = Bank(samples, {"things": RowsAround(2, 2, rate_hz=1, top=2)}, Regions(scores=scores))
    rows = next(bank.batches(2)).rows["things"]
    assert rows.counts.tolist() == [4, 0]
    assert rows.packed[:, 0].tolist() == values
    assert rows.spans[0].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert next(Bank(samples[1:], bank.sampling, Regions(scores=scores)).batches(1)).rows["things"].packed.shape == (
        0,
        1,
    )


# --- operators --------------------------------------------------------------------------------------------------------


def test_check_5_a_fresh_operator_is_the_reduced_clip_whatever_the_bank():
    torch.manual_seed(0)
    operator = NonLocalOperator(6, 7, width=8).eval()
    short = torch.randn(3, 6)
    for _ in range(2):
        out, _ = operator(short, torch.randn(3, 5, 7), None)
        assert torch.equal(out, operator.reduce_short(short))


@pytest.mark.parametrize("pre_act", [True, False])
def test_check_6_the_order_of_rows_plays_no_part(pre_act):
    torch.manual_seed(0)
    operator = NonLocalOperator(6, 7, width=8, pre_act=pre_act).eval()
    for parameter in operator.parameters():
        torch.nn.init.normal_(parameter)
    short, bank, mask = torch.randn(3, 6), torch.randn(3, 9, 7), torch.rand(3, 9) > 0.4
    order = torch.randperm(9)
    for kept in (None, mask):
        again = None if kept is None else kept[:, order]
        torch.testing.assert_close(operator(short, bank[:, order], again)[0], operator(short, bank, kept)[0])
        for pool in (average, maximum):
            torch.testing.assert_close(pool(bank[:, order], again), pool(bank, kept))


def test_check_7_padding_counts_in_the_mean_unless_masked():
    bank = torch.cat([torch.rand(1, 20, 7), torch.zeros(1, 20, 7)], dim=1)
    mask = (torch.arange(40) < 20).unsqueeze(0)
    mean = bank[:, :20].mean(dim=1)
    torch.testing.assert_close(average(bank, None), mean / 2)
    torch.testing.assert_close(average(bank, mask), mean)
    torch.testing.assert_close(maximum(-bank, None), torch.zeros(1, 7))
    torch.testing.assert_close(maximum(-bank, mask), (-bank[:, :20]).amax(dim=1))
    nothing = torch.zeros_like(mask)
    assert average(bank, nothing).abs().max() == maximum(bank, nothing).abs().max() == 0


def test_check_8_parameters():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    operator = NonLocalOperator(2048, 2048)
    assert count(operator.reduce_short) == count(operator.reduce_long) == 1_049_088
    assert (count(operator.blocks), count(operator)) == (2_101_248, 4_199_424)
    sizes = {
        (fbo, classes): count(TaskModel(LFBOptions(fbo=fbo), short=2048, long=2048, num_classes=classes).classifier)
        for fbo in ("nl", "avg", "max")
        for classes in (125, 352)
    }
    assert (sizes["nl", 125], sizes["avg", 125], sizes["max", 125]) == (320_125, 512_125, 512_125)
    assert (sizes["nl", 352], sizes["avg", 352], sizes["max", 352]) == (901_472, 1_442_144, 1_442_144)


def test_check_9_a_bank_of_one_row_is_its_value():
    torch.manual_seed(0)
    block, bank = NonLocalBlock(8, dropout=0.2), torch.randn(3, 1, 8)
    for _ in range(2):
        found, weights = block.attend(torch.randn(3, 8), bank, None)
        assert torch.equal(weights, torch.ones(3, 1))
        torch.testing.assert_close(found, block.g(bank[:, 0]))


@pytest.mark.parametrize("pre_act", [True, False])
def test_blocks_equal_the_formulas(pre_act):
    torch.manual_seed(0)
    operator = NonLocalOperator(6, 7, width=8, num_blocks=3, pre_act=pre_act).eval()
    for parameter in operator.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    short, bank = torch.randn(6), torch.randn(5, 7)
    state, rows = operator.reduce_short(short), [operator.reduce_long(row) for row in bank]

    def norm(x):
        return (x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)

    for block in operator.blocks:
        scores = torch.stack([block.theta(state) @ block.phi(row) / math.sqrt(8) for row in rows])
        p = scores.exp() / scores.exp().sum()
        y = sum(weight * block.g(row) for weight, row in zip(p, rows, strict=True))
        state = state + block.out(torch.relu(norm(y))) if pre_act else torch.relu(state + norm(block.out(y)))
    found, weights = operator(short[None], bank[None], None)
    torch.testing.assert_close(found[0], state)
    torch.testing.assert_close(weights[0], p)


def test_masked_rows_are_not_looked_at():
    torch.manual_seed(0)
    operator = NonLocalOperator(6, 7, width=8).eval()
    for parameter in operator.parameters():
        torch.nn.init.normal_(parameter)
    short, bank = torch.randn(2, 6), torch.randn(2, 5, 7)
    mask = torch.tensor([[True, True, False, True, False], [False] * 5])
    out, weights = operator(short, bank, mask)
    torch.testing.assert_close(out[:1], operator(short[:1], bank[:1, [0, 1, 3]], None)[0])
    torch.testing.assert_close(out[1:], operator(short[1:], torch.zeros(1, 1, 7), None)[0])  # none: one row of zeros
    assert (weights[0][~mask[0]] == 0).all()


# --- the head ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fbo", ["nl", "avg", "max"])
@pytest.mark.parametrize("mode", ["batch", "causal"])
def test_check_10_only_causal_windows_leave_the_future_alone(mode, fbo):
    head = randomised(made_head(mode=mode, fbo=fbo))
    batch = made_batch(head.options)
    before = head.predict(batch)
    for role in ("verb_bank", "noun_bank"):
        rows = batch.rows[role]
        middle = torch.tensor([s.span.center_s for s in batch.samples]).unsqueeze(1)
        rows.packed[(rows.spans.mean(dim=-1) > middle)[rows.mask]] += 100.0
    for own, changed in zip(before, head.predict(batch), strict=True):
        for task in ("verb", "noun"):
            assert (own.scores[task] == changed.scores[task]) is (mode == "causal")


def test_check_11_rates_by_iteration():
    head = made_head()
    optimizer = make_optimizer(head, head.options)
    verb, noun = optimizer.param_groups

    def rate(group, iteration):
        return group_rate(group, head.options, iteration // head.options.steps)

    found = [rate(verb, k) for k in (0, 27_999, 28_000, 32_000, 35_999, 36_000)]
    assert found == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5, 1e-5, 0])
    found = [rate(noun, k) for k in (0, 39_999, 40_000, 45_000, 49_999)]
    assert found == pytest.approx([3e-4, 3e-4, 3e-5, 3e-6, 3e-6])
    assert (verb["weight_decay"], noun["weight_decay"]) == (1e-6, 1e-5)
    assert head.options.epochs * head.options.steps == 50_000


def test_check_12_the_prior_of_the_paper_and_of_its_code():
    counts = [[40, 0, 10], [1, 6, 3]]
    scores = [np.log([p]) for p in ((0.3, 0.7), (0.5, 0.3, 0.2))]
    tables = {}
    for kind in ("joint", "noun_given_verb"):
        ranking = rank_actions(*scores, prior=action_prior(counts, kind), cut=None)
        tables[kind] = np.zeros((2, 3))
        tables[kind][tuple(ranking.pairs[0].T)] = ranking.scores[0]
    np.testing.assert_allclose(tables["joint"], [[0.1, 0, 0.01], [0.005833, 0.021, 0.007]], atol=1e-6)
    conditional = [[0.119999, 0, 0.012], [0.034998, 0.125992, 0.041997]]
    np.testing.assert_allclose(tables["noun_given_verb"], conditional, atol=1e-6)


def test_momentum_through_a_drop_is_the_releases_rescaled_one():
    """The release keeps rate times gradient in its buffer and rescales it; torch keeps the gradient."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2)
    ours, buffer, last = weight.detach().clone().numpy(), np.zeros(2), 0.1
    for rate in (0.1, 0.1, 0.01, 0.01, 0.001):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (weight**3).sum().backward()
        optimizer.step()
        buffer *= rate / last
        last, before = rate, buffer
        buffer = 0.9 * buffer + rate * (3 * ours**2 + 1e-2 * ours)
        ours = ours - (1.9 * buffer - 0.9 * before)
    np.testing.assert_allclose(weight.detach().numpy(), ours)


def test_norms_with_a_scale_of_their_own_do_not_decay():
    plain, scaled = made_head().parameter_groups(), made_head(ln_affine=True).parameter_groups()
    assert [group["weight_decay"] for group in plain] == [1e-6, 1e-5]
    assert [group["weight_decay"] for group in scaled] == [1e-6, 0, 1e-5, 0]
    assert [len(group["params"]) for group in scaled[1::2]] == [4, 4]  # two blocks


def test_the_verbs_weights_rest_when_its_share_of_epochs_is_over():
    options = LFBOptions(epochs=4, steps=3, verb_until=0.5, latent=8, batch=2, lr=0.1, noun_lr=0.1, device="cpu")
    bank, recorder = made_bank(options), MemoryRecorder()
    torch.manual_seed(0)
    head = LFB(options, DIMS, LABELS)
    copies = []
    recorder.checkpoint = lambda state: copies.append({name: t.clone() for name, t in state.weights.items()})
    head.fit(FitData(bank), recorder)
    assert len(recorder.values) == 4
    for task, moves in (("verb", [True, False, False]), ("noun", [True, True, True])):
        name = f"models.{task}.classifier.weight"
        assert [not torch.equal(a[name], b[name]) for a, b in pairwise(copies)] == moves


def test_an_epoch_has_as_many_steps_as_asked_for():
    options = LFBOptions(steps=5, batch=2)
    head, bank = made_head(steps=5, batch=2), made_bank(options)
    order = [[s.id for s in batch.samples] for batch in head.epoch_batches(bank, 0)]
    assert [len(ids) for ids in order] == [2, 1, 2, 1, 2]
    assert sorted(order[0] + order[1]) == sorted(order[2] + order[3]) == ["0", "1", "2"]
    assert order == [[s.id for s in batch.samples] for batch in head.epoch_batches(bank, 0)]


def test_training_clips_are_drawn_from_the_whole_segment_and_others_lie_in_its_middle():
    head = made_head()
    batch = made_batch(head.options, spans=[(1.0, 1.1)] * 200)
    assert set(head._moments(batch).tolist()) == {31}
    head.train()
    drawn = head._moments(batch).tolist()
    assert set(drawn) == {30, 31, 32, 33}
    assert made_head(centers="middle").train()._moments(batch).tolist() == [31] * 200


def test_roles_follow_the_options():
    def roles(**options):
        return sorted(LFB.sampling(LFBOptions(**options)))

    assert roles() == ["noun", "noun_bank", "verb", "verb_bank"]
    assert roles(fbo="none") == roles(bank="short") == ["noun", "verb"]
    assert LFB.needs_for(LFBOptions(noun_bank="clips"))["noun_bank"].kinds == ("clip",)
    sampling = LFB.sampling(LFBOptions(mode="causal", rows="overlap", bank_rate_hz=2))
    assert sampling["verb"] == SegmentRows("overlap")
    assert sampling["verb_bank"] == RowsAround(40, 0, 2)
    assert sampling["noun_bank"] == RowsAround(12, 0, 2, top=10)
    assert bank_window(LFBOptions(), "verb_bank") == VERB
    assert bank_window(LFBOptions(), "noun_bank") == NOUN
    assert bank_window(LFBOptions(noun_bank="clips"), "noun_bank").size == 12


@pytest.mark.parametrize(
    "options",
    [
        {"fbo": "avg"},
        {"fbo": "max", "noun_bank": "clips"},
        {"fbo": "none"},
        {"bank": "short"},
        {"mode": "causal", "mask_padding": "true", "nl_layers": "3"},
        {"pre_act": "false", "ln_affine": "true", "nl_layers": "1"},
    ],
    ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()),
)
def test_the_contract_holds_for_the_variants(options):
    report = check_head("lfb", {"latent": "16", **options})
    assert [outcome.sentence for outcome in report.outcomes if not outcome.passed] == []


def test_the_control_reads_nothing_but_the_clip():
    head = randomised(made_head(bank="short"))
    batch = made_batch(head.options)
    short = nearest_row(batch.rows["verb"], head._middles(batch)).features[:, 0]
    expected, _ = head.models["verb"](short, short.unsqueeze(1), None)
    logits = torch.tensor([p.scores["verb"] for p in head.predict(batch)])
    torch.testing.assert_close(logits, expected)
    [attention, *_] = head.attention(batch)["verb"]
    assert attention.weights.tolist() == [1]


@pytest.mark.parametrize("mask_padding", [False, True])
def test_attention_over_time_is_that_of_the_last_block(mask_padding):
    head = randomised(made_head(mask_padding=mask_padding))
    batch = made_batch(head.options)
    attention = head.attention(batch)
    assert [a.center_s for a in attention["verb"]] == pytest.approx([50.5, 2.5, 2923 / 30])
    for task, per_second in (("verb", 1), ("noun", 2)):
        window = bank_window(head.options, f"{task}_bank")
        for k, own in enumerate(attention[task]):
            assert len(own.spans) == len(own.weights)
            assert float(own.weights.sum()) + own.padding == pytest.approx(1, abs=1e-5)
            assert (own.padding == 0) is (mask_padding or len(own.weights) == window.size)
            times = own.spans.mean(dim=1)
            assert (times.diff() >= 0).all()
            assert (times.unique(return_counts=True)[1] == per_second).all()
            assert (times - own.center_s).abs().max() <= window.seconds / 2 + 0.05
            rows = window.rows_in(batch.rows[f"{task}_bank"], head._middles(batch))
            short = nearest_row(batch.rows[task], head._middles(batch)).features[:, 0]
            _, weights = head.models[task](short, rows.features, rows.mask if mask_padding else None)
            torch.testing.assert_close(own.weights, weights[k][rows.mask[k]].detach())


def test_operators_without_attention_say_so():
    head = made_head(fbo="max")
    with pytest.raises(OptionError, match="lfb with --fbo max has no attention"):
        head.attention(made_batch(head.options))


@pytest.mark.parametrize(("stride", "refused"), [(Fraction(1, 3), False), (Fraction(16, 25), False), (2, True)])
def test_banks_with_too_few_rows_are_refused_and_denser_ones_thinned(stride, refused):
    head = made_head()
    bank = made_bank(head.options, reader=Reader(stride=stride))
    if not refused:
        head.prepare(FitData(bank))
        assert float(next(bank.batches(1)).rows["verb_bank"].counts) == pytest.approx(45, abs=1)  # 40 s and the segment
        return
    with pytest.raises(
        OptionError, match=r"rows of role verb_bank are 2 s apart.*1 per second\. Give --bank-rate-hz 0\.5"
    ):
        head.prepare(FitData(bank))
    slower = made_head(bank_rate_hz=0.5)
    slower.prepare(FitData(made_bank(slower.options, reader=Reader(stride=stride))))
    assert bank_window(slower.options, "verb_bank").size == 20


def test_empty_windows_are_said_and_all_zeros():
    class Short(Reader):
        def timeline(self, role, item_id):
            return (self.grid, 10) if role.endswith("bank") else (self.grid, self.count)

        def rows(self, role, item_id):
            return super().rows(role, item_id)[: 10 if role.endswith("bank") else self.count]

    head, said = made_head(), []
    bank = made_bank(head.options, reader=Short())
    head.prepare(FitData(bank, notice=said.append))
    assert said == [
        f"role {role}: 2 of 3 training samples have no row in the window around them; theirs is all zeros."
        for role in ("verb_bank", "noun_bank")
    ]
    assert all(np.isfinite(p.scores["noun"]).all() for p in head.predict(next(bank.batches(3))))


def test_annotations_without_nouns_are_refused():
    with pytest.raises(OptionError, match=r"lfb needs classes for verb and noun.*none for noun"):
        LFB(LFBOptions(), DIMS, {"verb": ("a",)})


def test_widths_of_all_four_roles_may_differ():
    assert len({*HeadCase(LFB).dims.values()}) == 4
