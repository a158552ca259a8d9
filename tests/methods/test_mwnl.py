"""MWNL: golden numbers of the authors' code, a naive reference, schedules and normalisers."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ltbench.errors import UsageError
from ltbench.method import METHODS, Collective, Progress
from ltbench.testing import tiny_run
from ltbench.testing.traps import no_host_sync

METHODS["mwnl"]  # imports the plugin, as the harness does
METHODS["focal"]

from ltbench.methods.focal import sigmoid_focal_losses  # noqa: E402
from ltbench.methods.mwnl import MWNL, capped, cumulative_power, mwnl_terms  # noqa: E402

CAPS = ("fix", "zero", "decrease")
SETTINGS = [
    {},
    {"cap": "zero", "normaliser": "normal"},
    {"cap": "decrease", "schedule": "re_weight", "power": 1.0},
    {"beta": 0.0, "gamma": 0.5, "schedule": "drw", "difficulty": (1.0, 2.0, 0.5)},
    {"gamma": 0.0, "schedule": "default", "normaliser": "normal"},
]


def at(epoch, epochs=100):
    """The clock in the 1-based epoch of a run."""
    return Progress("train", epoch=epoch - 1, epochs=epochs, step=0, steps=10)


@pytest.fixture
def make(make_method):
    return partial(make_method, MWNL)


def random_case(num=7, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (num,), generator=generator)


@pytest.mark.parametrize(
    "name",
    [
        "beta0",
        "cls_after",
        "cls_before",
        "cls_mid",
        "gamma0",
        "missing_class",
        "normal_norm",
        "type_decrease",
    ],
)
def test_golden(name, make, golden, meets):
    case, name = golden(f"mwnl_{name}"), f"mwnl_{name}"
    params = case["params"]
    mwnl = make(
        case["inputs"]["counts"],
        gamma=params["gamma"],
        beta=params["beta"],
        cap=params["type"],
        normaliser=params["sigmoid"],
        schedule=params["scheduler"],
        power=params["weight_power"],
        difficulty=tuple(params["extra_weight"]),
        cls_start=params["cls_epoch_min"] / 100,
        cls_end=params["cls_epoch_max"] / 100,
        drw_start=params["drw_epoch"] / 100,
    )
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64, requires_grad=True)
    targets, progress = torch.tensor(case["inputs"]["labels"]), at(params["epoch"])
    loss = mwnl.per_sample_loss(logits, targets, progress).mean()
    loss.backward()
    meets(name, mwnl.class_weights(progress), case["outputs"]["class_weights"])
    meets(name, loss, case["outputs"]["loss"])
    meets(name, logits.grad, case["outputs"]["grad_logits"])


@pytest.mark.parametrize("name", ["mbit_focal_ce", "mbit_ldam_cls"])
def test_golden_weights_of_its_siblings(name, make, golden, meets):
    case = golden(name)
    weights = make(case["inputs"]["counts"]).class_weights(at(case["params"]["epoch"]))
    meets(f"{name}/weights", weights, case["outputs"]["class_weights"])


def test_full_weights_of_isic2018(make):
    counts = (4023, 667, 659, 308, 195, 84, 69)
    want = [0.0223, 0.1930, 0.1958, 0.4878, 0.8443, 2.3196, 2.9371]
    assert make(counts).class_weights(at(60)).tolist() == pytest.approx(want, abs=5e-5)


def naive(logits, targets, weights, config):
    """The batch's loss, in Python floats."""
    total, classes = 0.0, len(logits[0])
    for row, target in zip(logits, targets, strict=True):
        for c, x in enumerate(row):
            q = 1 / (1 + math.exp(-x if c == target else x))
            loss = -math.log(q)
            if config.beta and q < config.beta:
                bound = -math.log(config.beta)
                loss = {"fix": bound, "zero": 0.0, "decrease": q * bound / config.beta}[config.cap]
            total += weights[target] * (1 - q) ** config.gamma * loss
    if config.normaliser == "enlarge":
        return 30 * total / (len(logits) * classes)
    return total / (classes * sum(weights[target] for target in targets))


def naive_weights(counts, config, epoch, epochs):
    if config.schedule == "cls":
        first, last = round(config.cls_start * epochs), round(config.cls_end * epochs)
        part = min(max((epoch - first) / (last - first), 0), 1) ** 2
    else:
        switched = epoch >= round(config.drw_start * epochs)
        part = {"default": 0, "re_weight": 1, "drw": int(switched)}[config.schedule]
    factors = config.difficulty or [1.0] * len(counts)
    raw = [(k / n) ** (config.power * part) for k, n in zip(factors, counts, strict=True)]
    return [len(raw) * w / sum(raw) for w in raw]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("epoch", [1, 20, 21, 40, 49, 50, 59, 60, 100])
def test_against_double_loop(settings, epoch, make):
    counts, (logits, targets) = (60, 20, 4), random_case()
    mwnl = make(counts, **settings)
    weights = naive_weights(counts, mwnl.config, epoch, 100)
    assert mwnl.class_weights(at(epoch)).tolist() == pytest.approx(weights, rel=1e-12)
    got = mwnl.per_sample_loss(logits, targets, at(epoch)).mean().item()
    want = naive(logits.tolist(), targets.tolist(), weights, mwnl.config)
    assert got == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradcheck(settings, make):
    mwnl, (logits, targets) = make(**settings), random_case(4)
    assert torch.autograd.gradcheck(
        lambda x: mwnl.per_sample_loss(x, targets, at(45)), (logits.requires_grad_(),)
    )


@pytest.mark.parametrize("kind", CAPS)
def test_cap(kind):
    q = torch.tensor([0.9, 0.2, 0.1000001, 0.0999999, 0.05, 1e-6]).double()
    losses, bound = -q.log(), math.log(10)
    got = capped(losses, 0.1, kind)
    torch.testing.assert_close(got[:3], losses[:3])
    want = {"fix": torch.full((3,), bound).double(), "zero": torch.zeros(3).double()}
    want["decrease"] = q[3:] * bound / 0.1
    torch.testing.assert_close(got[3:], want[kind])
    assert (got <= losses).all()
    assert capped(losses, 0.0, kind) is losses


def test_capped_terms_still_move_through_the_modulator():
    logits = torch.tensor([[-5.0, -5.0]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0])
    mwnl_terms(logits, targets, 2.0, 0.1, "fix").sum().backward()
    assert logits.grad[0, 0] < 0
    logits.grad = None
    mwnl_terms(logits, targets, 0.0, 0.1, "fix").sum().backward()
    assert logits.grad[0, 0] == 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("kind", CAPS)
def test_without_cap_it_is_the_sigmoid_focal_loss(gamma, kind):
    logits, targets = random_case()
    got = mwnl_terms(logits, targets, gamma, 0.0, kind)
    torch.testing.assert_close(got, sigmoid_focal_losses(logits, targets, gamma))
    assert (mwnl_terms(logits, targets, gamma, 0.1, "fix") <= got).all()


def test_cumulative_power():
    got = [cumulative_power(e, 20, 60, 1.2) for e in (1, 20, 30, 40, 59, 60, 61, 100)]
    assert got == pytest.approx([0, 0, 0.075, 0.3, 1.2 * (39 / 40) ** 2, 1.2, 1.2, 1.2])
    assert [cumulative_power(e, 3, 3, 1.2) for e in (3, 4)] == [0, 1.2]
    assert cumulative_power(1, 0, 0, 1.2) == 1.2


@pytest.mark.parametrize(
    ("schedule", "epochs", "last_plain", "first_full"),
    [
        ("cls", 100, 20, 60),
        ("cls", 70, 14, 42),
        ("cls", 2, 0, 1),
        ("cls", 1, 0, 1),
        ("drw", 100, 49, 50),
        ("drw", 2, 0, 1),
        ("drw", 1, 0, 1),
        ("re_weight", 100, 0, 1),
        ("default", 100, 100, 101),
    ],
)
def test_schedules_from_the_first_to_the_last_epoch(schedule, epochs, last_plain, first_full, make):
    mwnl = make((60, 20, 4), schedule=schedule)
    full = (torch.tensor([60.0, 20, 4]).double() ** -1.2).tolist()
    full = [3 * w / sum(full) for w in full]
    before = full[0] + 1
    for epoch in range(1, epochs + 1):
        weights = mwnl.class_weights(at(epoch, epochs)).tolist()
        assert sum(weights) == pytest.approx(3)
        assert weights[0] <= before
        before = weights[0]
        if epoch <= last_plain:
            assert weights == [1.0, 1.0, 1.0]
        elif epoch >= first_full:
            assert weights == pytest.approx(full)
        else:
            assert full[0] < weights[0] < 1


def test_authors_schedule_is_20_to_60_of_70(make):
    preset = MWNL.presets["authors"].settings
    starts = {k.partition(".")[2]: v for k, v in preset.items() if k.startswith("method.")}
    mwnl = make(**starts)
    assert mwnl.class_weights(at(20, 70)).tolist() == [1.0, 1.0, 1.0]
    assert mwnl.class_weights(at(21, 70))[2] > 1
    want = make().class_weights(at(100))
    torch.testing.assert_close(mwnl.class_weights(at(60, 70)), want)
    assert mwnl.class_weights(at(59, 70))[2] < want[2]


def test_all_off_is_the_mean_binary_cross_entropy(make):
    logits, targets = random_case()
    mwnl = make(beta=0.0, gamma=0.0, schedule="default", normaliser="normal")
    own = F.one_hot(targets, 3).double()
    want = F.binary_cross_entropy_with_logits(logits, own)
    torch.testing.assert_close(mwnl.per_sample_loss(logits, targets, at(100)).mean(), want)
    enlarged = make(beta=0.0, gamma=0.0, schedule="default")
    torch.testing.assert_close(enlarged.per_sample_loss(logits, targets, at(100)).mean(), 30 * want)


@pytest.mark.parametrize("normaliser", ["enlarge", "normal"])
def test_equal_counts_remove_the_weights(normaliser, make):
    logits, targets = random_case()
    losses = [
        make((9, 9, 9), normaliser=normaliser).per_sample_loss(logits, targets, at(e)).mean()
        for e in (1, 40, 100)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


@pytest.mark.parametrize("settings", SETTINGS)
def test_invariances(settings, make):
    counts, (logits, targets) = (60, 20, 4), random_case()
    before = make(counts, **settings).per_sample_loss(logits, targets, at(45))
    order = torch.randperm(len(targets))
    shuffled = make(counts, **settings).per_sample_loss(logits[order], targets[order], at(45))
    torch.testing.assert_close(shuffled, before[order])
    names = torch.tensor([2, 0, 1])
    back = names.argsort()
    factors = settings.get("difficulty", (1.0, 1.0, 1.0))
    moved = settings | {"difficulty": tuple(factors[i] for i in back)}
    relabelled = make([counts[i] for i in back], **moved)
    after = relabelled.per_sample_loss(logits[:, back], names[targets], at(45))
    torch.testing.assert_close(after, before)
    twice = make(counts, **settings).per_sample_loss(logits.repeat(2, 1), targets.repeat(2), at(45))
    torch.testing.assert_close(twice.mean(), before.mean())


def test_normal_is_that_of_the_batch_of_all_devices(make):
    logits, targets = random_case(8)
    settings = {"normaliser": "normal", "schedule": "re_weight"}
    whole = make(**settings)
    want = whole.per_sample_loss(logits, targets, at(1)).mean()
    weights = whole.class_weights(at(1))[targets]

    class Both(Collective):
        world_size = 2

        def gather(self, x, *, grad=False):
            return weights

    parts = [
        make(collective=Both(), **settings).per_sample_loss(logits[s], targets[s], at(1)).mean()
        for s in (slice(4), slice(4, 8))
    ]
    torch.testing.assert_close(sum(parts) / 2, want)


def test_difficulty_is_raised_to_the_same_power(make):
    by_name = make(schedule="re_weight", difficulty={"class 1": 2.0})
    by_place = make(schedule="re_weight", difficulty=(1.0, 2.0, 1.0))
    plain = make(schedule="re_weight").class_weights(at(1))
    torch.testing.assert_close(by_name.class_weights(at(1)), by_place.class_weights(at(1)))
    raised = by_name.class_weights(at(1)) / plain
    assert (raised[1] / raised[0]).item() == pytest.approx(2**1.2)
    assert make(difficulty={"class 1": 2.0}).class_weights(at(1)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("difficulty", "words"),
    [((1.0, 2.0), "2 factors"), ({"d": 2.0}, "has not: d"), ({"a": 1.0, "z": 3.0}, "has not: z")],
)
def test_check_refuses(difficulty, words, make_task):
    with pytest.raises(UsageError, match=words):
        MWNL.check(MWNL.Config(difficulty=difficulty), make_task())


@pytest.mark.parametrize("difficulty", [{}, (), {"a": 2.0}, (1.0, 2.0, 3.0)])
def test_check_accepts(difficulty, make_task):
    config = MWNL.Config(difficulty=difficulty)
    MWNL.check(config, make_task())
    assert MWNL.Config.model_validate_json(config.model_dump_json()) == config


def test_config_refuses():
    for wrong in (
        {"beta": 0.5},
        {"cls_start": 0.7, "cls_end": 0.6},
        {"difficulty": {"a": 0.0}},
        {"cap": "none"},
    ):
        with pytest.raises(ValueError):
            MWNL.Config(**wrong)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("scale", [1e4, -1e4, 100.0, -100.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extremes(settings, scale, dtype, make):
    logits = (scale * torch.eye(3)).to(dtype).requires_grad_()
    mwnl = make((5000, 30, 1), **settings)
    for targets in ([0, 1, 2], [1, 1, 1], [2, 2, 2]):
        logits.grad = None
        losses = mwnl.per_sample_loss(logits, torch.tensor(targets), at(60))
        losses.mean().backward()
        assert losses.dtype == torch.float32
        assert losses.isfinite().all()
        assert logits.grad.isfinite().all()


def test_hardest_positive_keeps_its_modulator():
    logits = torch.tensor([[-200.0, -300.0]], requires_grad=True)
    terms = mwnl_terms(logits, torch.tensor([0]), 2.0, 0.1, "fix")
    terms.sum().backward()
    assert terms.item() == pytest.approx(math.log(10))
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("settings", SETTINGS)
def test_step_reaches_all_parameters_without_a_sync(settings, make, make_batch):
    mwnl, batch = make(**settings), make_batch([0, 0, 1, 2], num_views=1)
    with no_host_sync():
        loss = mwnl.training_step(batch, at(60))
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mwnl.parameters())
    assert "class_ratios" not in mwnl.state_dict()


def test_metadata():
    info = METHODS.info("mwnl")
    assert (info.name, info.year, info.file.stem) == ("mwnl", 2022, "mwnl")


@pytest.mark.parametrize("method", ["mwnl@mixup+drw", "mwnl@isic2017+cutmix"])
def test_composes(method, tmp_path):
    outcome = tiny_run(method, tmp_path, {"epochs": 2, "reweight.start": 0.5})
    assert all(math.isfinite(row["train"]["loss"]) for row in outcome.folder.epochs())
