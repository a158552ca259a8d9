"""What combines by settings with every per-sample loss: re-weighting, mixing, SAM, refusals."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from scipy.stats import beta as beta_distribution
from torch import nn

from ltbench.cell import prepare
from ltbench.composition import (
    CMO_STREAM,
    COMPOSITIONS,
    Composition,
    MixConfig,
    ReweightConfig,
    beta_quantile,
    paste,
    remix_label_weight,
)
from ltbench.config import resolve
from ltbench.errors import UsageError
from ltbench.method import Batch, Collective, Method, Progress, Stream
from ltbench.testing.tiny import tiny_request, tiny_run
from ltbench.testing.traps import no_host_sync
from ltbench.training.engine import StepEngine
from ltbench.training.optimizers import ScheduledOptimizer

GOLDEN = Path(__file__).parent / "golden"
COUNTS = (60, 20, 4)
SIZE = 6


def golden(stem):
    return json.loads((GOLDEN / f"{stem}.json").read_text("utf-8"))


def close(got, want, rtol):
    got, want = (torch.as_tensor(x, dtype=torch.float64) for x in (got, want))
    assert got.shape == want.shape
    error = float((got - want).abs().max() / want.abs().max())
    assert error <= rtol, f"relative error {error:.3g}"


def at(epoch=0, epochs=10, step=0):
    return Progress("train", epoch=epoch, epochs=epochs, step=step, steps=7)


class Linear(nn.Module):
    """A method as far as composition sees it, which keeps the pictures it was given."""

    def __init__(self, pixels=SIZE, classes=3):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(pixels, classes, generator=generator))
        self.seen = None

    def logits(self, images):
        self.seen = images.detach()
        return images.flatten(1) @ self.weight

    def per_sample_loss(self, logits, targets, progress):
        return F.cross_entropy(logits, targets, reduction="none")


def unit_pictures(targets=(0, 0, 0, 1, 1, 2)):
    """Picture i is one at its pixel i alone, so that a mixture shows what it is made of."""
    pictures = torch.eye(SIZE).view(SIZE, 1, 2, 3)
    return Batch((pictures,), torch.tensor(targets), torch.arange(SIZE))


def parts_of(seen):
    """(share of the picture's own pixels, number of the other one), from mixed unit pictures."""
    rows = seen.flatten(1)
    own = rows.diagonal()
    others = (rows - torch.diag(own)).argmax(1)
    return own, torch.where(own == 1, torch.arange(SIZE), others)


def composed(batch, progress=None, **settings):
    """(loss, what the network saw) of a batch."""
    method, composition = Linear(), Composition(class_counts=COUNTS, **settings)
    loss = composition.loss(method, batch, progress or at(), Collective())
    return loss, method


def test_golden_deferred_weights():
    case = golden("ldam_drw_weights")
    reweight = ReweightConfig(name="effective", beta=case["params"]["betas"][1], start=0.8)
    for row, want in zip(case["inputs"]["rows"], case["outputs"]["weights"], strict=True):
        composition = Composition(reweight=reweight, class_counts=tuple(row["counts"]))
        weights = composition.class_weights(
            at(row["epoch"], 200), torch.zeros((), dtype=torch.float64)
        )
        assert (weights is None) == (row["epoch"] < case["params"]["switch_epoch"])
        close(torch.ones(len(want)) if weights is None else weights, want, 1e-9)


@pytest.mark.parametrize(
    ("epochs", "start", "first"), [(200, 0.8, 160), (100, 0.8, 80), (3, 0.8, 2), (10, 0.0, 0)]
)
def test_weights_act_from_a_part_of_the_run_on(epochs, start, first):
    composition = Composition(
        reweight=ReweightConfig(name="inverse", start=start), class_counts=COUNTS
    )
    active = [
        composition.class_weights(at(e, epochs), torch.zeros(())) is not None for e in range(epochs)
    ]
    assert active == [e >= first for e in range(epochs)]


@pytest.mark.parametrize("epochs", [1, 2])
def test_very_short_runs_end_before_deferred_weights(epochs):
    composition = Composition(reweight=ReweightConfig(name="effective"), class_counts=COUNTS)
    weights = [composition.class_weights(at(e, epochs), torch.zeros(())) for e in range(epochs)]
    assert weights == [None] * epochs


@pytest.mark.parametrize("name", ["inverse", "effective"])
def test_re_weighted_loss_is_the_weighted_mean(name):
    batch = unit_pictures()
    reweight = ReweightConfig(name=name, start=0.0)
    loss, method = composed(batch, reweight=reweight)
    losses = F.cross_entropy(
        batch.images.flatten(1) @ method.weight, batch.targets, reduction="none"
    )
    beta = 0.9999
    raw = [1 / n if name == "inverse" else (1 - beta) / (1 - beta**n) for n in COUNTS]
    weights = torch.tensor([raw[t] for t in batch.targets])
    torch.testing.assert_close(loss, (weights * losses).sum() / weights.sum())
    before, _ = composed(batch, reweight=ReweightConfig(name=name, start=0.5))
    torch.testing.assert_close(before, losses.mean())


def test_a_batch_of_one_class_is_not_weighted():
    batch = unit_pictures((2,) * SIZE)
    weighted, _ = composed(batch, reweight=ReweightConfig(name="inverse", start=0.0))
    plain, _ = composed(batch)
    torch.testing.assert_close(weighted, plain)


def test_two_devices_have_the_loss_of_one():
    batch = unit_pictures()
    composition = Composition(
        reweight=ReweightConfig(name="inverse", start=0.0), class_counts=COUNTS
    )
    weights = composition.class_weights(at(), torch.zeros(()))[batch.targets]

    class Both(Collective):
        def gather(self, x, *, grad=False):
            return weights

    halves = [
        Batch((batch.images[part],), batch.targets[part], batch.indices[part])
        for part in (slice(3), slice(3, 6))
    ]
    parts = [composition.loss(Linear(), half, at(), Both()) for half in halves]
    torch.testing.assert_close(
        sum(parts) / 2, composition.loss(Linear(), batch, at(), Collective())
    )


@pytest.mark.parametrize("step", range(5))
def test_mixup_is_its_formula(step):
    batch = unit_pictures()
    loss, method = composed(batch, at(step=step), mix=MixConfig(name="mixup"))
    own, others = parts_of(method.seen)
    moved = others != torch.arange(SIZE)
    share = own[moved][0]
    torch.testing.assert_close(own[moved], share.expand(int(moved.sum())))
    assert sorted(others.tolist()) == list(range(SIZE))
    pictures = batch.images.flatten(1)
    mixed = share * pictures + (1 - share) * pictures[others]
    torch.testing.assert_close(method.seen.flatten(1), mixed)
    logits = mixed @ method.weight
    want = share * F.cross_entropy(logits, batch.targets) + (1 - share) * F.cross_entropy(
        logits, batch.targets[others]
    )
    torch.testing.assert_close(loss, want)


def test_mixing_follows_seed_epoch_and_step_alone():
    def seen(seed=0, **clock):
        return composed(unit_pictures(), at(**clock), mix=MixConfig(name="mixup"), seed=seed)[
            1
        ].seen

    assert torch.equal(seen(step=3), seen(step=3))
    assert not torch.equal(seen(step=3), seen(step=4))
    assert not torch.equal(seen(step=3), seen(epoch=1, step=3))
    assert not torch.equal(seen(step=3), seen(seed=1, step=3))


@pytest.mark.parametrize("name", ["mixup", "remix", "cutmix"])
def test_mixing_of_equal_pictures_and_labels_is_plain(name):
    pictures = torch.full((SIZE, 1, 2, 3), 0.5)
    batch = Batch((pictures,), torch.ones(SIZE, dtype=torch.int64), torch.arange(SIZE))
    loss, _ = composed(batch, mix=MixConfig(name=name))
    torch.testing.assert_close(loss, composed(batch)[0])


def test_mixed_and_re_weighted_each_loss_has_its_labels_weight():
    batch = unit_pictures()
    reweight = ReweightConfig(name="inverse", start=0.0)
    loss, method = composed(batch, mix=MixConfig(name="mixup"), reweight=reweight)
    own, others = parts_of(method.seen)
    share = own[others != torch.arange(SIZE)][0]
    logits = method.seen.flatten(1) @ method.weight
    total = weight_sum = 0.0
    for i in range(SIZE):
        for part, label in ((share, batch.targets[i]), (1 - share, batch.targets[others[i]])):
            weight = part / COUNTS[label]
            total += weight * F.cross_entropy(logits[i : i + 1], label[None])
            weight_sum += weight
    torch.testing.assert_close(loss, total / weight_sum)


def test_golden_remix():
    case = golden("remix_label_lambda")
    given, params = case["inputs"], case["params"]
    counts = torch.tensor(given["counts"], dtype=torch.float64)
    ratios = (
        counts[torch.tensor(given["label_first"])] / counts[torch.tensor(given["label_second"])]
    )
    for share, want in zip(given["pixel_lambda"], case["outputs"]["label_lambda"], strict=True):
        got = remix_label_weight(share, ratios, params["kappa"], params["tau"])
        close(got, want, 1e-7)


def test_remix_gives_the_label_to_the_rare_class():
    loss, method = composed(
        unit_pictures(), mix=MixConfig(name="remix", kappa=3.0, tau=1.0), progress=at(step=2)
    )
    own, others = parts_of(method.seen)
    share = own[others != torch.arange(SIZE)][0]
    assert 0 < share < 1
    targets = unit_pictures().targets
    logits, want = method.seen.flatten(1) @ method.weight, 0.0
    for i in range(SIZE):
        first, second = targets[i], targets[others[i]]
        ratio = COUNTS[first] / COUNTS[second]
        # tau 1: wherever the sizes differ enough, the rarer label takes all.
        weight = 0.0 if ratio >= 3 else 1.0 if ratio <= 1 / 3 else share
        for part, label in ((weight, first), (1 - weight, second)):
            want = want + part * F.cross_entropy(logits[i : i + 1], label[None]) / SIZE
    torch.testing.assert_close(loss, want)


def test_beta_quantile():
    for u in (0.01, 0.3, 0.5, 0.99):
        assert beta_quantile(u, 1.0) == u
        got = beta_quantile(u, 0.4)
        assert beta_distribution.cdf(got, 0.4, 0.4) == pytest.approx(u)


@pytest.mark.parametrize("shape", [(8, 8), (9, 5), (32, 32)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.5, 0.5), (0.99, 0.2), (0.3, 0.999)])
def test_the_box_of_cutmix(shape, share, centre):
    images, kept = paste(torch.ones(2, 3, *shape), torch.zeros(2, 3, *shape), share, centre)
    assert kept == pytest.approx(float(images.mean()))
    box = images[0, 0] == 0
    rows, columns = box.any(1).nonzero().flatten(), box.any(0).nonzero().flatten()
    assert int(box.sum()) == len(rows) * len(columns)  # one rectangle
    sides = [int(side * (1 - share) ** 0.5) for side in shape]
    assert len(rows) <= sides[0]
    assert len(columns) <= sides[1]
    if centre == (0.5, 0.5) and all(side % 2 == 0 for side in (*sides, *shape)):
        assert [len(rows), len(columns)] == sides  # inside the picture nothing is cut off
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize("step", range(6))
def test_cutmix_weighs_labels_by_the_area_that_stayed(step):
    pictures = torch.arange(1.0, SIZE + 1).view(-1, 1, 1, 1).expand(SIZE, 1, 8, 8)
    batch = unit_pictures()._replace(views=(pictures,))
    method = Linear(pixels=64)
    composition = Composition(mix=MixConfig(name="cutmix"), class_counts=COUNTS)
    loss = composition.loss(method, batch, at(step=step), Collective())
    own = pictures == method.seen
    others, kept = batch.targets.clone(), 1.0
    for i in range(SIZE):
        if not own[i].all():
            kept = float(own[i].float().mean())
            other = method.seen[i][~own[i]]
            assert (other == other[0]).all()
            others[i] = batch.targets[int(other[0]) - 1]
    logits = method.seen.flatten(1) @ method.weight
    want = kept * F.cross_entropy(logits, batch.targets) + (1 - kept) * F.cross_entropy(
        logits, others
    )
    torch.testing.assert_close(loss, want)


def test_cmo_asks_for_a_second_stream_and_pastes_from_it():
    cmo = Composition(mix=MixConfig(name="cmo"), class_counts=COUNTS)
    streams = cmo.streams({"main": Stream(views=("strong", "contrast"))})
    assert list(streams) == ["main", CMO_STREAM]
    assert streams[CMO_STREAM] == Stream(views=("strong",), sampler="balanced")
    assert list(Composition().streams({"main": Stream()})) == ["main"]
    front = Batch((torch.ones(SIZE, 1, 8, 8),), torch.tensor([2] * SIZE), torch.arange(SIZE))
    back = Batch(
        (torch.zeros(SIZE, 1, 8, 8),),
        torch.tensor([0] * SIZE),
        torch.arange(SIZE),
        {CMO_STREAM: front},
    )
    pasted = []
    for step in range(6):
        method = Linear(pixels=64)
        loss = cmo.loss(method, back, at(step=step), Collective())
        pasted.append(float(method.seen.mean()))
        logits = method.seen.flatten(1) @ method.weight
        kept_loss, pasted_loss = (F.cross_entropy(logits, b.targets) for b in (back, front))
        want = (1 - pasted[-1]) * kept_loss + pasted[-1] * pasted_loss
        torch.testing.assert_close(loss, want)
    assert sum(0 < part < 1 for part in pasted) >= 3


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_has_a_window_and_a_probability(name):
    mix = MixConfig(name=name, start=0.2, stop=0.8)
    batch = unit_pictures()._replace(views=(torch.rand(SIZE, 1, 8, 8),))

    def mixed(config, **clock):
        method = Linear(pixels=64)
        Composition(mix=config, class_counts=COUNTS).loss(method, batch, at(**clock), Collective())
        return not torch.equal(method.seen, batch.images)

    inside = [any(mixed(mix, epoch=e, step=s) for s in range(7)) for e in range(10)]
    assert inside == [2 <= e < 8 for e in range(10)]
    rare = MixConfig(name="mixup", probability=0.3)
    rate = sum(mixed(rare, epoch=e, step=s) for e in range(10) for s in range(30)) / 300
    assert rate == pytest.approx(0.3, abs=0.08)


def test_shares_are_uniform_for_alpha_1():
    composition = Composition(mix=MixConfig(name="mixup"), class_counts=COUNTS)
    shares = [composition._uniform(at(epoch=e, step=s), 4)[1] for e in range(20) for s in range(20)]
    assert sum(shares) / 400 == pytest.approx(0.5, abs=0.05)
    assert len(set(shares)) == 400


@pytest.mark.parametrize("name", ["mixup", "remix", "cutmix", "cmo"])
def test_mixing_does_not_wait_for_the_device(name):
    batch = unit_pictures()._replace(views=(torch.rand(SIZE, 1, 8, 8),))
    batch = batch._replace(also={CMO_STREAM: batch})
    composition = Composition(
        mix=MixConfig(name=name),
        reweight=ReweightConfig(name="effective", start=0.0),
        class_counts=COUNTS,
    )
    with no_host_sync():
        composition.loss(Linear(pixels=64), batch, at(step=1), Collective()).backward()


class SoftmaxModel(Method):
    """A linear soft-max model on features, in float64."""

    def __init__(self, weight):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(weight)

    def training_step(self, batch, progress):
        return F.cross_entropy(batch.images @ self.weight.T, batch.targets)


@pytest.mark.parametrize(("field", "rho"), [("weight_sam", 0.05), ("weight_sgd", 0.0)])
def test_golden_sam(field, rho):
    case = golden("sam_imbsam_two_steps")
    given, params = case["inputs"], case["params"]
    weight, features = (
        torch.tensor(given[key], dtype=torch.float64) for key in ("weight", "features")
    )
    method = SoftmaxModel(weight)
    assert params["rho"] == 0.05
    sgd = torch.optim.SGD(
        method.parameters(),
        lr=params["lr"],
        momentum=params["momentum"],
        weight_decay=params["weight_decay"],
    )
    scheduled = ScheduledOptimizer(
        sgd, "batch", params["lr"], lambda epoch, epochs: 1.0, tuple(method.parameters())
    )
    fabric = Fabric(accelerator="cpu", devices=1)
    engine = StepEngine(fabric, method, [scheduled], clip_norm=None, sam_rho=rho)
    batch = Batch((features,), torch.tensor(given["labels"]), torch.arange(len(features)))
    for step in range(params["steps"]):
        engine.run(method, batch, at(step=step))
    close(method.weight.detach(), case["outputs"][field], 1e-9)


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("ecl", {"mix.name": "mixup"}, "mix.name is 'mixup'.*training step of its own"),
        ("ecl", {"reweight.name": "inverse"}, "reweight.name is 'inverse'.*Leave both at 'none'"),
        (
            "ce",
            {"optimizer.sam_rho": 0.05, "optimizer.accumulate": 2},
            "SAM needs the gradient of the whole batch",
        ),
    ],
)
def test_refusals(method, settings, words, tmp_path):
    config = resolve(tiny_request(method, settings))
    with pytest.raises(UsageError, match=words):
        prepare(config, results=tmp_path, data_root=None)


@pytest.mark.parametrize("settings", [{"mix.alpha": 0}, {"mix.kappa": 0.5}, {"reweight.beta": 1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError, match=next(iter(settings)).replace(".", r"\.")):
        resolve(tiny_request("ce", settings))


@pytest.mark.parametrize("name", sorted(COMPOSITIONS.keys() - {"drw"}))
def test_rows_resolve_and_join(name):
    assert COMPOSITIONS[name][0]
    config = resolve(tiny_request(f"ce@{name}+drw"))
    assert config.reweight.name == "effective"
    assert set(config.method_label.removeprefix("ce@").split("+")) == {name, "drw"}


@pytest.mark.parametrize("rows", ["cmo", "sam+remix", "progressive+drw"])
def test_rows_run(rows, tmp_path):
    outcome = tiny_run(f"ce@{rows}", tmp_path, {"epochs": 2})
    assert all(math.isfinite(row["train"]["loss"]) for row in outcome.folder.epochs())
