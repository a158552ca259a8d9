"""BBN: golden numbers of the authors' code, a naive reference, and what two branches must obey."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from ltbench.cell import prepare
from ltbench.config import resolve
from ltbench.data.samplers import choose_classes, class_probabilities, epoch_indices
from ltbench.errors import UsageError
from ltbench.functional import parabolic_weight
from ltbench.method import METHODS, Progress, Stage
from ltbench.models import BackboneFactory
from ltbench.run_config import OptimizerConfig, ScheduleConfig
from ltbench.testing.tiny import tiny_request
from ltbench.testing.traps import no_host_sync
from ltbench.training.optimizers import make_optimizers

METHODS["bbn"]  # imports the plugin, as the harness does

from ltbench.methods.bbn import (  # noqa: E402
    BBN,
    bilateral_cross_entropy,
    mixed_features,
    schedule_length,
)

MIX_CASES = ("bbn_mix_T100_e50", "bbn_mix_T200_e1", "bbn_mix_T200_e100", "bbn_mix_T90_e45")


def progress(epoch, epochs=100):
    return Progress("train", epoch=epoch, epochs=epochs, step=0, steps=10)


def double(values, grad=True):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def loss_of(features, others, weight, bias, targets, reversed_targets, alpha, factor=2.0):
    """Loss and logits of a pair of feature batches under one linear layer."""
    logits = F.linear(mixed_features(features, others, alpha, factor), weight, bias)
    if logits.requires_grad:
        logits.retain_grad()
    loss, *_ = bilateral_cross_entropy(logits, targets, reversed_targets, alpha)
    return loss, logits


def random_case(num_pairs=5, dim=3, num_classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(num_pairs, dim), (num_pairs, dim), (num_classes, 2 * dim), (num_classes,)]
    draw = [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]
    labels = torch.randint(num_classes, (2, num_pairs), generator=generator)
    return *draw, *labels


@pytest.mark.parametrize("name", MIX_CASES)
def test_golden_mix(name, golden, meets):
    case = golden(name)
    given, wanted, params = case["inputs"], case["outputs"], case["params"]
    features, others = (double(given[f"feature_{b}"]) for b in ("conventional", "rebalancing"))
    weight, bias = double(given["classifier_weight"]), double(given["classifier_bias"])
    labels = [torch.tensor(given[f"labels_{b}"]) for b in ("conventional", "rebalancing")]
    length = schedule_length(params["max_epoch"], "authors")
    alpha = parabolic_weight(params["epoch"] - 1, length)
    loss, logits = loss_of(features, others, weight, bias, *labels, alpha)
    loss.backward()
    meets(name, length, wanted["div_epoch"])
    meets(name, alpha, wanted["alpha"])
    meets(name, logits, wanted["logits"])
    meets(name, loss, wanted["loss"])
    meets(name, logits.grad, wanted["grad_logits"])
    meets(name, features.grad, wanted["grad_feature_conventional"])
    meets(name, others.grad, wanted["grad_feature_rebalancing"])
    meets(name, weight.grad, wanted["grad_weight"])
    meets(name, bias.grad, wanted["grad_bias"])


def test_golden_alpha_schedule(golden, meets):
    case = golden("bbn_alpha_schedule")
    rows = zip(case["inputs"]["rows"], *case["outputs"].values(), strict=True)
    for row, alphas, length in rows:
        name = f"bbn_alpha_schedule/{row['max_epoch']}"
        found = schedule_length(row["max_epoch"], "authors")
        meets(name, found, length)
        meets(name, [parabolic_weight(e - 1, found) for e in row["epochs"]], alphas)


def test_golden_reversed_sampler_is_the_second_stream(golden, meets, make_bbn):
    case = golden("bbn_reverse_sampler")
    method = make_bbn()
    names = {name: s.sampler for name, s in method.streams(method.stages()[0]).items()}
    assert names == {"main": None, "reversed": "reversed"}
    for i, counts in enumerate(case["inputs"]["counts"]):
        found = class_probabilities(names["reversed"], np.array(counts), epoch=0, epochs=1)
        meets(f"bbn_reverse_sampler/{i}", found, case["outputs"]["class_probability"][i])
        drawn = choose_classes(found, np.array(case["inputs"]["uniform_draws"]))
        assert drawn.tolist() == case["outputs"]["drawn_class"][i]


@pytest.mark.parametrize("alpha", [1.0, 0.7599, 0.5, 0.02, 0.0])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_loss_against_loops(alpha, factor):
    features, others, weight, bias, targets, reversed_targets = case = random_case()
    total = 0.0
    for i in range(5):
        z = []
        for c in range(4):
            conventional = sum(weight[c, k].item() * features[i, k].item() for k in range(3))
            rebalancing = sum(weight[c, 3 + k].item() * others[i, k].item() for k in range(3))
            z.append(factor * (alpha * conventional + (1 - alpha) * rebalancing) + bias[c].item())
        normaliser = math.log(sum(math.exp(x) for x in z))
        total += alpha * (normaliser - z[targets[i]]) / 5
        total += (1 - alpha) * (normaliser - z[reversed_targets[i]]) / 5
    got, _ = loss_of(*case, alpha, factor)
    assert got.item() == pytest.approx(total, rel=1e-12)


def test_gradcheck():
    features, others, weight, bias, *labels = random_case(3, 2, 3)
    inputs = [x.requires_grad_() for x in (features, others, weight, bias)]
    assert torch.autograd.gradcheck(lambda *x: loss_of(*x, *labels, 0.3)[0], inputs)


def test_first_epoch_is_cross_entropy_of_the_conventional_branch():
    features, others, weight, bias, targets, reversed_targets = random_case()
    weight.requires_grad_()
    others.requires_grad_()
    loss, _ = loss_of(features, others, weight, bias, targets, reversed_targets, alpha=1.0)
    loss.backward()
    want = F.cross_entropy(2 * features @ weight[:, :3].T + bias, targets)
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)
    assert others.grad.abs().max() == 0
    assert weight.grad[:, 3:].abs().max() == 0


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.9])
def test_swapping_the_branches_and_the_weight_changes_nothing(alpha):
    features, others, weight, bias, targets, reversed_targets = random_case()
    before, _ = loss_of(features, others, weight, bias, targets, reversed_targets, alpha)
    swapped = torch.cat([weight[:, 3:], weight[:, :3]], dim=1)
    after, _ = loss_of(others, features, swapped, bias, reversed_targets, targets, 1 - alpha)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


def test_equal_pairs_and_equal_weights_are_plain_cross_entropy():
    features, _, weight, bias, targets, _ = random_case()
    weight = torch.cat([weight[:, :3], weight[:, :3]], dim=1)
    for alpha in (1.0, 0.6, 0.1):
        loss, _ = loss_of(features, features, weight, bias, targets, targets, alpha)
        want = F.cross_entropy(2 * features @ weight[:, :3].T + bias, targets)
        torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [0.75, 0.1])
def test_loss_is_invariant_to_the_order_of_pairs_names_of_classes_and_copies(alpha):
    features, others, weight, bias, targets, reversed_targets = case = random_case()
    before, _ = loss_of(*case, alpha)
    order, names = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 3, 1])
    variants = [
        (features[order], others[order], weight, bias, targets[order], reversed_targets[order]),
        (
            features,
            others,
            weight[names.argsort()],
            bias[names.argsort()],
            names[targets],
            names[reversed_targets],
        ),
        (
            *(x.repeat(2, 1) for x in (features, others)),
            weight,
            bias,
            targets.repeat(2),
            reversed_targets.repeat(2),
        ),
    ]
    for variant in variants:
        after, _ = loss_of(*variant, alpha)
        torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_a_batch_of_one_and_missing_classes_are_finite(dtype):
    for logits in ([[1e4, -1e4, 0.0]], [[-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]]):
        z = torch.tensor(logits, dtype=dtype, requires_grad=True)
        targets = torch.zeros(len(logits), dtype=torch.int64)
        loss, *_ = bilateral_cross_entropy(z, targets, targets + 1, 0.4)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert z.grad.isfinite().all()


@pytest.mark.parametrize("epochs", [1, 2, 100])
@pytest.mark.parametrize("horizon", [1.0, 2.0, "authors"])
def test_schedule_starts_at_one_and_falls_to_above_zero(epochs, horizon):
    length = schedule_length(epochs, horizon)
    alphas = [parabolic_weight(e, length) for e in range(epochs)]
    assert alphas[0] == 1.0
    assert all(a > b for a, b in itertools.pairwise(alphas))
    assert alphas[-1] > 0


def test_schedule_scales_with_the_run():
    found = [round(parabolic_weight(e, schedule_length(100, 1.0)), 4) for e in (0, 49, 74, 99)]
    assert found == [1.0, 0.7599, 0.4524, 0.0199]
    for epoch in range(100):
        long = parabolic_weight(2 * epoch, schedule_length(200, 1.0))
        assert long == parabolic_weight(epoch, schedule_length(100, 1.0))
    assert schedule_length(90, 10 / 9) == pytest.approx(schedule_length(90, "authors"))


def test_reversed_sampler_draws_at_the_stated_rates():
    targets = np.repeat([0, 1, 2], [300, 90, 10])
    drawn = np.concatenate(
        [
            epoch_indices(targets, 3, "reversed", seed=0, stream=1, epoch=e, epochs=10)
            for e in range(10)
        ]
    )
    observed = np.bincount(targets[drawn], minlength=3)
    expected = class_probabilities("reversed", np.array([300, 90, 10]), epoch=0, epochs=1)
    assert chisquare(observed, expected * len(drawn)).pvalue > 0.01


def test_reversed_sampler_of_equal_counts_is_uniform():
    found = class_probabilities("reversed", np.array([7, 7, 7]), epoch=0, epochs=1)
    np.testing.assert_allclose(found, 1 / 3, rtol=1e-15)


@pytest.fixture
def make_bbn(make_task):
    def make(**settings):
        torch.manual_seed(0)
        task = make_task(make_backbone=BackboneFactory("resnet8_cifar", 3))
        return BBN(BBN.Config(**settings), task)

    return make


@pytest.fixture
def make_pair(make_batch):
    def make(targets, reversed_targets):
        batch = make_batch(targets, num_views=1)
        other = make_batch(reversed_targets, num_views=1)
        return batch._replace(also={"reversed": other._replace(views=(other.images.flip(3),))})

    return make


def is_second_branch(name):
    return name.startswith("rebalancing.")


@pytest.mark.parametrize(("epoch", "second_learns"), [(0, False), (1, True), (99, True)])
def test_step_reaches_what_it_should_without_a_sync(make_bbn, make_pair, epoch, second_learns):
    method, batch = make_bbn(), make_pair([0, 0, 1, 2], [2, 2, 1, 0])
    with no_host_sync():
        outputs = method.training_step(batch, progress(epoch))
        outputs["loss"].backward()
    assert set(outputs) == {"loss", "conventional", "rebalancing", "alpha"}
    assert all(value.ndim == 0 for value in outputs.values())
    assert [name for name, value in outputs.items() if value.requires_grad] == ["loss"]
    for name, parameter in method.named_parameters():
        learns = second_learns or not is_second_branch(name)
        assert bool(parameter.grad.abs().max() > 0) is learns, name
    half = method.head.weight.shape[1] // 2
    assert bool(method.head.weight.grad[:, half:].abs().max() > 0) is second_learns


def test_step_is_the_formula_on_two_passes(make_bbn, make_pair):
    method, batch = make_bbn(), make_pair([0, 0, 1, 2], [2, 2, 1, 0])
    got = method.training_step(batch, progress(49))
    trunk, block, pool = make_bbn().backbone.split_last_block()
    features = pool(block(trunk(batch.images)))
    others = pool(make_bbn().rebalancing(trunk(batch.also["reversed"].images)))
    head = method.head
    labels = batch.targets, batch.also["reversed"].targets
    want, _ = loss_of(features, others, head.weight, head.bias, *labels, 1 - 0.49**2)
    torch.testing.assert_close(got["loss"], want)
    mixture = got["alpha"] * got["conventional"] + (1 - got["alpha"]) * got["rebalancing"]
    torch.testing.assert_close(got["loss"], mixture)
    assert got["alpha"].item() == pytest.approx(1 - 0.49**2)


def test_batchnorm_of_the_trunk_is_updated_twice_the_uniform_batch_first(make_bbn, make_pair):
    method, batch = make_bbn(), make_pair([0, 0, 1, 2], [2, 2, 1, 0])
    seen = []
    norm = method.backbone.net.bn1
    method.backbone.net.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    method.training_step(batch, progress(0))
    assert norm.num_batches_tracked == 2
    assert len(seen) == 2
    assert seen[0] is batch.images
    assert seen[1] is batch.also["reversed"].images
    block = method.backbone.net.layer3[-1]
    assert (block.bn1.num_batches_tracked, method.rebalancing.bn1.num_batches_tracked) == (1, 1)


def test_branches_start_alike_and_share_nothing(make_bbn):
    method = make_bbn()
    first, second = method.backbone.net.layer3[-1], method.rebalancing
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert {id(p) for p in first.parameters()}.isdisjoint({id(p) for p in second.parameters()})


def test_branches_start_from_pretrained_weights(make_task, tmp_path):
    torch.save(BackboneFactory("resnet8_cifar", 3)().net.state_dict(), tmp_path / "weights.pt")
    factory = BackboneFactory("resnet8_cifar", 3, str(tmp_path / "weights.pt"))
    method = BBN(BBN.Config(), make_task(make_backbone=factory))
    stored = factory().net.layer3[-1].state_dict()
    for branch in (method.backbone.net.layer3[-1], method.rebalancing):
        for name, value in branch.state_dict().items():
            assert torch.equal(value, stored[name]), name


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_inference_is_alpha_one_half_on_one_image(make_bbn, make_batch, factor):
    method = make_bbn(branch_factor=factor).eval()
    images, runs = make_batch([0, 1]).images, []
    method.backbone.net.conv1.register_forward_hook(lambda *_: runs.append(1))
    got = method.predict(images)
    assert len(runs) == 1
    trunk, block, pool = method.backbone.split_last_block()
    features, others = (pool(b(trunk(images))) for b in (block, method.rebalancing))
    weight, half = method.head.weight, 64
    want = features @ weight[:, :half].T + others @ weight[:, half:].T
    torch.testing.assert_close(got, factor / 2 * want + method.head.bias)


@pytest.mark.parametrize(
    ("backbone", "expected"), [("resnet32_cifar", 537_488), ("resnet50", 27_970_624)]
)
def test_number_of_parameters_without_classifier(make_task, backbone, expected):
    task = make_task(make_backbone=BackboneFactory(backbone, 3))
    method = BBN(BBN.Config(), task)
    classifier = sum(p.numel() for p in method.head.parameters())
    assert sum(p.numel() for p in method.parameters()) - classifier == expected
    assert classifier == 2 * method.backbone.num_features * 3 + 3


def test_each_tensor_has_one_name_and_each_parameter_one_place(make_bbn):
    method = make_bbn()
    state = [t for t in method.state_dict().values() if t.numel() > 1]
    assert len({t.data_ptr() for t in state}) == len(state)
    (optimizer,) = make_optimizers(
        method, method.stages()[0], OptimizerConfig(lr=0.1), ScheduleConfig()
    )
    places = [id(p) for p in optimizer.params]
    assert sorted(places) == sorted({id(p) for p in method.parameters()})


def test_state_goes_round_after_the_branches_parted(make_bbn, make_pair, tmp_path):
    method, batch = make_bbn(), make_pair([0, 0, 1, 2], [2, 2, 1, 0])
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        method.training_step(batch, progress(50))["loss"].backward()
        optimizer.step()
    torch.save(method.state_dict(), tmp_path / "state.pt")
    other = make_bbn()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    images = batch.images
    assert torch.equal(other.eval().predict(images), method.eval().predict(images))
    assert not torch.equal(
        other.rebalancing.conv1.weight, other.backbone.net.layer3[-1].conv1.weight
    )


def test_synchronised_batchnorm_replaces_that_of_both_branches(make_bbn):
    method = torch.nn.SyncBatchNorm.convert_sync_batchnorm(make_bbn())
    trunk, block, _ = method.backbone.split_last_block()
    norms = [m for part in (trunk, block, method.rebalancing) for m in part.modules()]
    kinds = {type(m).__name__ for m in norms if "BatchNorm" in type(m).__name__}
    assert kinds == {"SyncBatchNorm"}


def test_step_in_bfloat16_keeps_the_loss_in_float32(make_bbn, make_pair):
    method, batch = make_bbn(), make_pair([0, 0, 1, 2], [2, 2, 1, 0])
    want = method.training_step(batch, progress(40))["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = method.training_step(batch, progress(40))["loss"]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


def test_check_refuses_a_backbone_without_residual_blocks(make_task):
    BBN.check(BBN.Config(), make_task(make_backbone=BackboneFactory("resnet8_cifar", 3)))
    with pytest.raises(UsageError, match=r"backbone: .* last residual block"):
        BBN.check(
            BBN.Config(), make_task(make_backbone=BackboneFactory("mobilenetv3_small_050", 3))
        )


def test_backbone_is_refused_before_anything_is_trained(tmp_path):
    config = resolve(tiny_request("bbn", {"backbone": "mobilenetv3_small_050"}))
    with pytest.raises(UsageError, match=r"backbone: .* last residual block"):
        prepare(config, results=tmp_path, data_root=None)


@pytest.mark.parametrize(
    "settings", [{"horizon": 0.9}, {"horizon": "run"}, {"branch_factor": 0.5}, {"alpha": 1}]
)
def test_config_refuses(settings):
    with pytest.raises(ValueError):
        BBN.Config(**settings)


def test_presets(make_bbn):
    assert list(BBN.presets) == ["paper", "authors", "authors_cifar"]
    config = resolve(tiny_request("bbn@authors_cifar"))
    assert (config.method.horizon, config.optimizer.nesterov) == ("authors", True)
    milestones = [round(m * 200) + 1 for m in config.schedule.milestones]
    assert (config.schedule.name, milestones) == ("step", [120, 160])
    paper = resolve(tiny_request("bbn@paper")).method
    assert make_bbn(bias=paper.bias).head.bias is None
    assert paper.branch_factor == 1


def test_metadata_and_one_stage(make_bbn):
    info = METHODS.info("bbn")
    assert (info.name, info.year, info.file.stem) == ("bbn", 2020, "bbn")
    assert "Megvii-Nanjing/BBN@7992e90" in info.source
    assert make_bbn().stages() == [Stage("train", 100)]
