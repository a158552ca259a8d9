"""The training loop: resuming exactly, selecting, stopping, and keeping the test split shut."""

from __future__ import annotations

import gc
import json
import signal
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from ltbench import trainer as trainer_module
from ltbench.cell import prepare
from ltbench.config import resolve
from ltbench.data.feed import Part, Renderer
from ltbench.data.images import ArrayImages
from ltbench.dataset import Source, Split
from ltbench.errors import InterruptedRunError, RunFailedError, UsageError
from ltbench.method import METHODS, Stage
from ltbench.registry import add_plugins
from ltbench.runner import LAST_WEIGHTS
from ltbench.testing import HostSyncError, interrupted_run, no_host_sync, tiny_run
from ltbench.testing.tiny import tiny_request, weights
from ltbench.trainer import Trainer
from ltbench.training.checkpoint import CHECKPOINT, load_checkpoint

PLUGINS = Path(__file__).parent / "plugins"
CONTRACT = Path(__file__).parent / "contract"
PROBE, PLAIN, BBN = PLUGINS / "toy_probe.py", PLUGINS / "toy_plain.py", CONTRACT / "toy_bbn.py"
STEPS = 5  # an epoch of a tiny run


@pytest.fixture(autouse=True)
def probe():
    """The probe's class, its notes empty."""
    add_plugins([PROBE])
    found = METHODS["toy_probe"]
    found.seen.clear()
    return found


def probe_run(folder, **settings):
    """A run of the probe; `script`, `stages`, ... are its settings, dotted ones are the run's."""
    own = {
        f"method.{k}": v
        for k, v in settings.items()
        if k in METHODS["toy_probe"].Config.model_fields
    }
    rest = {k.replace("__", "."): v for k, v in settings.items() if f"method.{k}" not in own}
    return tiny_run("toy_probe", folder, own | rest, plugins=[PROBE])


def the_checkpoint(folder):
    (path,) = folder.rglob(CHECKPOINT)
    return load_checkpoint(path)


def stopped_after(looks, method, folder, settings=None):
    """Stop a run after some looks at the signal; returns its checkpoint."""
    left = iter([None] * looks + [int(signal.SIGTERM)])
    with pytest.raises(InterruptedRunError):
        tiny_run(method, folder, settings, plugins=[PROBE], stop_signal=lambda: next(left, None))
    return the_checkpoint(folder)


class TestResume:
    @pytest.mark.parametrize("precision", ["32", "bf16"])
    @pytest.mark.parametrize("method", ["ecl", "toy_probe"])
    def test_stopped_at_every_step(self, method, precision, tmp_path):
        """One step a session, through epochs and stages: the same bits, rows and costs."""
        settings = {"epochs": 2, "precision": precision}
        if method == "toy_probe":
            settings |= {"method.stages": 2, "method.carry": "best", "method.script": [3, 1]}
        whole = tiny_run(method, tmp_path / "whole", settings, plugins=[PROBE])
        steps = whole.record["ledger"]["steps"]
        broken = interrupted_run(
            method, tmp_path / "broken", [0] * steps, settings, plugins=[PROBE]
        )
        assert broken.record["digest"] == whole.record["digest"]
        assert broken.record["selected"] == whole.record["selected"]
        assert timeless(broken.folder.epochs()) == timeless(whole.folder.epochs())
        same = ("steps", "images_seen", "forward_passes_per_step", "forward_images_per_step")
        assert [broken.record["ledger"][k] for k in same] == [
            whole.record["ledger"][k] for k in same
        ]

    @pytest.mark.parametrize("method", ["ecl", "toy_probe"])
    def test_died_between_checkpoints(self, method, tmp_path):
        """Whatever was done since the last checkpoint is done again, to the same bits."""
        settings = {"epochs": 3, "machine.checkpoint_every_s": 0}
        whole = tiny_run(method, tmp_path / "whole", settings, plugins=[PROBE])
        for looks in (4, 1, 2, 3):  # at first between an epoch's row and its checkpoint
            alive = iter([None] * looks)
            with pytest.raises(StopIteration):  # anything that is no way to stop a run
                tiny_run(
                    method,
                    tmp_path / "broken",
                    settings,
                    plugins=[PROBE],
                    stop_signal=lambda alive=alive: next(alive),
                )
        broken = tiny_run(method, tmp_path / "broken", settings, plugins=[PROBE])
        assert broken.record["digest"] == whole.record["digest"]
        assert timeless(broken.folder.epochs()) == timeless(whole.folder.epochs())

    def test_gathered_gradients_are_saved_inside_the_epoch_alone(self, tmp_path):
        inside = stopped_after(STEPS + 1, "ecl", tmp_path / "inside")
        assert (inside["epoch"], inside["step"]) == (1, 2)
        assert list(inside["gradients"]) == ["proxies"]
        assert inside["gradients"]["proxies"].abs().sum() > 0
        after = stopped_after(STEPS - 1, "ecl", tmp_path / "after")
        assert (after["epoch"], after["step"]) == (1, 0)
        assert after["gradients"] == {}

    @pytest.mark.parametrize(("seconds", "saves"), [(0, 2 * STEPS), (3600, 1)])
    def test_checkpoints_by_time(self, seconds, saves, tmp_path, monkeypatch):
        """0 seconds: after each step. Never due: at the end of the stage."""
        saved = []
        original = trainer_module.save_checkpoint
        monkeypatch.setattr(
            trainer_module,
            "save_checkpoint",
            lambda path, state: (
                saved.append((state["epoch"], state["step"])),
                original(path, state),
            ),
        )
        tiny_run("ce", tmp_path, {"epochs": 2, "machine.checkpoint_every_s": seconds})
        assert len(saved) == saves
        assert saved[-1] == (2, 0)

    def test_stopping_says_how_to_go_on(self, tmp_path):
        with pytest.raises(InterruptedRunError) as caught:
            tiny_run("ce", tmp_path, stop_signal=lambda: int(signal.SIGINT))
        assert caught.value.exit_code == 130
        for words in ("signal 2", "epoch 0, step 1", CHECKPOINT, "same command again"):
            assert words in str(caught.value)


def timeless(rows):
    return [{k: v for k, v in row.items() if not k.endswith("_s")} for row in rows]


class TestSelection:
    def test_ties_go_to_the_latest_and_the_selected_weights_are_tested(self, tmp_path):
        outcome = probe_run(tmp_path, script=[2, 4, 4, 3])
        (selected,) = outcome.record["selected"]
        assert (selected["epoch"], selected["value"]) == (2, 1.0)
        assert outcome.record["metrics"]["test"]["accuracy"] == 1.0
        assert int(weights(outcome)["epoch"]) == 2
        last = torch.load(outcome.folder.path / LAST_WEIGHTS, weights_only=True)
        assert (int(last["epoch"]), int(last["num_right"])) == (3, 3)

    def test_last_rule(self, tmp_path):
        outcome = probe_run(tmp_path, script=[2, 4, 4, 3], select="last")
        assert outcome.record["selected"][0]["epoch"] == 3
        assert outcome.record["selected"][0]["value"] is None
        assert outcome.record["metrics"]["test"]["accuracy"] == 0.75
        assert int(weights(outcome)["epoch"]) == 3

    def test_what_is_kept_is_what_was_validated(self, tmp_path):
        """Not what the method's hook made of it afterwards."""
        outcome = probe_run(tmp_path, script=[1, 3, 2, 1], drift=True)
        (selected,) = outcome.record["selected"]
        assert outcome.record["metrics"]["val"]["accuracy"] == selected["value"] == 0.75

    @pytest.mark.parametrize(("carry", "expected"), [("best", 1), ("last", 3)])
    def test_the_next_stage_starts_from_what_the_stage_says(self, carry, expected, probe, tmp_path):
        outcome = probe_run(tmp_path, script=[1, 4, 2, 3], stages=2, carry=carry)
        starts = [what for hook, what in probe.seen if hook == "stage"]
        assert starts == [("stage0", 0), ("stage1", expected)]
        assert [s["epoch"] for s in outcome.record["selected"]] == [expected, 1]

    def test_carry_best_under_the_last_rule_is_the_last(self, probe, tmp_path):
        probe_run(tmp_path, script=[1, 4, 2, 3], stages=2, carry="best", select="last")
        assert [what for hook, what in probe.seen if hook == "stage"][1] == ("stage1", 3)

    @pytest.mark.parametrize(
        ("stages", "message"),
        [
            ([], "one stage or more"),
            ([Stage("a", 1), Stage("a", 1)], "a name of its own"),
            ([Stage("a", 1, validate=False, carry="best"), Stage("b", 1)], "'a' hands on its best"),
            ([Stage("a", 1, select=False, carry="best"), Stage("b", 1)], "'a' hands on its best"),
        ],
    )
    def test_stages_that_make_no_sense(self, stages, message, probe, tmp_path, monkeypatch):
        monkeypatch.setattr(probe, "stages", lambda self: stages)
        with pytest.raises(UsageError, match=message):
            probe_run(tmp_path)


class TestFeedback:
    def reports(self, probe):
        return [what for hook, what in probe.seen if hook == "report"]

    def test_none_for_methods_that_declare_nothing(self, probe, tmp_path):
        probe_run(tmp_path)
        assert self.reports(probe) == [None] * 4

    def test_validation(self, probe, tmp_path):
        outcome = probe_run(tmp_path, script=[1, 2, 3, 4], feedback=True)
        reports = self.reports(probe)
        assert [r.recall.tolist() for r in reports] == [
            [float(c < right) for c in range(4)] for right in (1, 2, 3, 4)
        ]
        assert reports[0].support.tolist() == [6, 6, 6, 6]
        assert reports[0].f1.dtype == torch.float64
        assert outcome.record["uses_validation"] is True

    def test_inner_part_never_validation(self, probe, tmp_path):
        """The report is of images carved from training; validation only selects."""
        outcome = probe_run(
            tmp_path, feedback=True, feedback_split="inner", dataset__train_counts=[24, 12, 8, 4]
        )
        counts = outcome.record["feedback_counts"]
        assert counts != [6, 6, 6, 6]
        assert [r.support.tolist() for r in self.reports(probe)] == [counts] * 4
        assert [a + b for a, b in zip(counts, outcome.record["train_counts"], strict=True)] == [
            24,
            12,
            8,
            4,
        ]
        assert outcome.record["uses_validation"] is False
        assert outcome.record["feedback_split"] == "inner"

    def test_inner_part_is_not_trained_on(self, tmp_path):
        settings = {"method.feedback": True, "dataset.train_counts": [24, 12, 8, 4]}
        request = tiny_request("toy_probe", settings | {"feedback_split": "inner"})
        cell = prepare(resolve(request), results=tmp_path, data_root=None)
        parts = [cell.training.positions, cell.feedback.positions, cell.validation.positions]
        joined = np.concatenate([*parts, cell.split.test])
        assert len(np.unique(joined)) == len(joined)
        assert sorted(np.concatenate(parts[:2])) == sorted(cell.split.train)


class TestNotFinite:
    @pytest.mark.parametrize(("settings", "every_s", "what"), [
        ({"bad_loss_at": 3}, 0, "term 'odd' first at stage 'stage0', epoch 1 of 4, step 3 of 5"),
        ({"bad_loss_at": 3}, 3600, "term 'odd' first at stage 'stage0', epoch 1 of 4, step 3 of 5"),
        ({"bad_gradient_at": 2}, 0, "parameter 'head.bias' is not: found at stage 'stage0'"),
        ({"bad_gradient_at": 2}, 3600, "term 'odd' first at stage 'stage0', epoch 1 of 4, step 3"),
        ({"bad_gradient_at": 4}, 0, "parameter 'head.bias' is not: found at stage 'stage0'"),
        ({"bad_gradient_at": 4}, 3600, "parameter 'head.bias' is not: found at stage 'stage0'"),
    ])  # fmt: skip
    def test_stops_and_keeps_the_checkpoint_of_before(self, settings, every_s, what, tmp_path):
        """Also where the loss is still finite and the weights no longer are."""
        with pytest.raises(RunFailedError) as caught:
            probe_run(tmp_path, **settings, machine__checkpoint_every_s=every_s)
        assert what in str(caught.value)
        assert "Lower optimizer.lr" in str(caught.value)
        assert caught.value.exit_code == 1
        kept = list(tmp_path.rglob(CHECKPOINT))
        assert len(kept) == (every_s == 0)
        for path in kept:
            assert str(path) in str(caught.value)
            state = load_checkpoint(path)
            assert (state["epoch"], state["step"]) == (1, *settings.values())
            assert all(v.isfinite().all() for v in state["method"].values())
        assert not list(tmp_path.rglob("record.json"))

    def test_gathered_gradients_count_too(self, tmp_path, monkeypatch):
        """They would spoil the weights only at the epoch's end, and the checkpoint before."""
        add_plugins([CONTRACT / "toy_proxies.py"])
        method = METHODS["toy_proxies"]
        original = method.training_step

        def spoilt(self, batch, progress):
            outputs = original(self, batch, progress)
            outputs["loss"] = outputs["loss"] + (0 * self.proxies.sum()).sqrt()
            return outputs

        monkeypatch.setattr(method, "training_step", spoilt)
        settings = {"machine.checkpoint_every_s": 0}
        with pytest.raises(RunFailedError, match="the gradient of 'proxies' is not: found"):
            tiny_run("toy_proxies", tmp_path, settings)
        assert not list(tmp_path.rglob(CHECKPOINT))


class TestNoHostSync:
    @pytest.mark.parametrize("method", ["ce", "ecl", "toy_bbn"])
    def test_nothing_in_the_trainers_own_step_waits(self, method, tmp_path, monkeypatch):
        """Batches, clipping, the watch on the loss and the ledger included."""
        original, steps = Trainer._train_step, []

        def trapped(self, *args):
            with no_host_sync():
                original(self, *args)
            steps.append(1)

        monkeypatch.setattr(Trainer, "_train_step", trapped)
        tiny_run(method, tmp_path, {"epochs": 1, "optimizer.clip_norm": 1.0}, plugins=[BBN])
        assert len(steps) == STEPS

    @pytest.mark.parametrize("sync", [
        lambda x: x.sum().item(), lambda x: bool(x.sum() > 0), lambda x: x.cpu(),
        lambda x: x.to("cpu"), lambda x: x.to(device="cpu"), lambda x: x.numpy(),
        lambda x: x.tolist(), lambda x: x[x > 0], lambda x: torch.nonzero(x),
        lambda x: torch.unique(x), lambda x: x.long().bincount(), lambda x: np.asarray(x),
        lambda x: x.repeat_interleave(torch.tensor([1, 2, 1])), lambda x: torch.equal(x, x),
    ])  # fmt: skip
    def test_the_trap_catches(self, sync):
        x = torch.tensor([1.0, 0.0, 2.0])
        sync(x)
        with pytest.raises(HostSyncError), no_host_sync():
            sync(x)
        sync(x)  # and is taken down again

    def test_the_trap_lets_pass_what_does_not_wait(self):
        x = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
        with no_host_sync():
            y = torch.where(x > 0, x, 0.0).to(torch.bfloat16).to(x.device)
            y.repeat_interleave(2).float().logsumexp(0).backward()
        assert x.grad is not None


class TestTheTestSplitStaysShut:
    def test_no_part_and_no_picture_before_selection_is_over(self, tmp_path, monkeypatch):
        request = tiny_request("toy_probe", {"method.feedback": True})
        cell = prepare(resolve(request), results=tmp_path / "look", data_root=None)
        test, events = set(cell.split.test.tolist()), []
        make, take, fit = Part.of, ArrayImages.take, Trainer.fit

        def note(kind, positions):
            events.append((kind, bool(test & set(np.asarray(positions).tolist()))))

        monkeypatch.setattr(
            Part, "of", lambda source, where: (note("part", where), make(source, where))[1]
        )
        monkeypatch.setattr(
            ArrayImages, "take", lambda self, where: (note("take", where), take(self, where))[1]
        )
        monkeypatch.setattr(
            Trainer, "fit", lambda self, *a: (fit(self, *a), events.append(("fit", False)))[0]
        )
        original = METHODS["toy_probe"].on_fit_end
        monkeypatch.setattr(
            METHODS["toy_probe"],
            "on_fit_end",
            lambda self, v: (events.append(("fit_end", False)), original(self, v))[1],
        )
        probe_run(tmp_path / "run", feedback=True)
        opened = [i for i, (_, of_test) in enumerate(events) if of_test]
        # To be predicted, and then for the digests that the record keeps.
        assert [events[i][0] for i in opened] == ["part", "take", "take"]
        assert min(opened) > events.index(("fit_end", False)) > events.index(("fit", False))

    def test_nothing_the_trainer_holds_leads_to_test_positions(self, tmp_path, monkeypatch):
        held = []
        original = Trainer._close_epoch

        def look(self, *args):
            if not held:
                held.extend(reachable(self))
            original(self, *args)

        monkeypatch.setattr(Trainer, "_close_epoch", look)
        outcome = probe_run(tmp_path, feedback=True)
        cell = prepare(
            resolve(tiny_request("toy_probe", {"method.feedback": True})),
            results=tmp_path,
            data_root=None,
        )
        assert cell.key == outcome.record["key"]
        assert any(isinstance(thing, Renderer) for thing in held), "the walk found nothing"
        assert not [thing for thing in held if isinstance(thing, Split | Source)]
        arrays = [a for a in held if isinstance(a, np.ndarray) and a.ndim == 1]
        test_ids = set(cell.source.ids[cell.split.test].tolist())
        for array in arrays:
            if array.dtype.kind in "iu" and len(array) == len(cell.split.test):
                assert not np.array_equal(array, cell.split.test)
            assert not test_ids & set(array.tolist())


def reachable(root):
    """Every object that can be reached from `root`, but for modules, classes and code."""
    skipped = types.ModuleType | type | types.CodeType | types.FrameType
    found, waiting = {}, [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in found or isinstance(thing, skipped):
            continue
        found[id(thing)] = thing
        if isinstance(thing, types.FunctionType):
            # Not its globals, which are the module's.
            waiting += [c.cell_contents for c in thing.__closure__ or () if c is not None]
            waiting += list(thing.__defaults__ or ())
        else:
            waiting += gc.get_referents(thing)
    return list(found.values())


@pytest.mark.slow
def test_two_devices_train_as_one(tmp_path):
    """Without BatchNorm, the same batches on two processes give the same weights."""
    settings = {"epochs": 2, "machine.checkpoint_every_s": 0}
    heard = {1: [], 2: []}
    one, two = (
        tiny_run(
            *("toy_plain", tmp_path, {**settings, "machine.devices": n}),
            plugins=[PLAIN],
            on_epoch=heard[n].append,
        )
        for n in (1, 2)
    )
    assert heard[2] == two.folder.epochs()
    assert [row.keys() for row in heard[1]] == [row.keys() for row in heard[2]]
    assert (one.record["batchnorm"], two.record["batchnorm"]) == ("none", "none")
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-5, atol=1e-6)
    assert (one.record["num_devices"], two.record["num_devices"]) == (1, 2)
    assert one.record["key"] != two.record["key"]
    for cost in ("steps", "images_seen"):
        assert one.record["ledger"][cost] == two.record["ledger"][cost]
    for first, second in zip(one.folder.epochs(), two.folder.epochs(), strict=True):
        # The row tells the mean over the devices, not the first one's.
        assert second["train"] == pytest.approx(first["train"], rel=1e-5)
    assert sorted(json.loads(json.dumps(two.record["metrics"]))) == ["test", "val"]
