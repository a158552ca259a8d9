"""What every method must do, as a test class that any plugin's tests inherit.

    class TestMine(MethodConformance):
        method = "my_method"
        plugins = (Path("my_method.py"),)      # not needed for methods of this project

Run it with pytest. `bench.py plugin test NAME` does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from ltbench.cell import Cell, prepare
from ltbench.config import nested, resolve
from ltbench.errors import UsageError
from ltbench.method import Method
from ltbench.models import state_digest
from ltbench.registry import METHODS, add_plugins
from ltbench.runner import Outcome, build_method
from ltbench.testing.tiny import (
    interrupted_run,
    other_value,
    stages_kept,
    tiny_request,
    tiny_run,
    weights,
)
from ltbench.testing.traps import no_host_sync
from ltbench.training.devices import make_fabric
from ltbench.training.engine import StepEngine


class MethodConformance:
    """The contract, checked on runs of seconds.

    Attributes:
        settings: dotted settings that make the method fit a tiny run.
        untrained: names of parameters that by design never get a gradient.
    """

    method: ClassVar[str]
    plugins: ClassVar[tuple[Path, ...]] = ()
    settings: ClassVar[Mapping[str, Any]] = {}
    untrained: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture(scope="class")
    @classmethod
    def plugin(cls) -> type[Method]:
        """The plugin's class."""
        add_plugins(cls.plugins)
        found: type[Method] = METHODS[cls.method.partition("@")[0]]
        return found

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
        """An uninterrupted run."""
        return cls._run(tmp_path_factory.mktemp("whole"))

    @classmethod
    def _run(cls, folder: Path, **settings: Any) -> Outcome:
        return tiny_run(cls.method, folder, {**cls.settings, **settings}, plugins=cls.plugins)

    @classmethod
    def _cell(cls, folder: Path, **settings: Any) -> Cell:
        add_plugins(cls.plugins)
        request = tiny_request(cls.method, {**cls.settings, **settings})
        return prepare(resolve(request), results=folder, data_root=None)

    def test_name_is_the_file_stem(self, plugin: type[Method]) -> None:
        """So that the registry finds it without importing the others."""
        assert plugin.info.file is not None, "the class must be defined in a file"
        assert plugin.info.name == plugin.info.file.stem

    def test_metadata_is_complete(self, plugin: type[Method]) -> None:
        """A reader must be able to find the paper and the code."""
        for field in ("paper", "year", "source"):
            assert getattr(plugin.info, field), f"@METHODS.register(..., {field}=...) is missing"
        assert (plugin.__doc__ or "").strip(), "the class needs a docstring"

    def test_config_round_trips(self, plugin: type[Method]) -> None:
        """Dumped to JSON and read back, settings are the same."""
        config = plugin.Config()
        assert issubclass(plugin.Config, BaseModel)
        assert plugin.Config.model_validate_json(config.model_dump_json()) == config
        with pytest.raises(ValueError, match="Extra inputs"):
            plugin.Config.model_validate({"no_such_setting": 1})

    def test_settings_are_described(self, plugin: type[Method]) -> None:
        """`describe` shows each setting's meaning."""
        bare = [name for name, field in plugin.Config.model_fields.items() if not field.description]
        assert not bare, f"settings without a description: {bare}"

    def test_search_space_names_settings(self, plugin: type[Method]) -> None:
        """Tuning can only tune what exists."""
        unknown = set(plugin.search_space) - set(plugin.Config.model_fields)
        assert not unknown, f"search_space has keys that are no settings: {sorted(unknown)}"

    def test_presets_are_valid(self, plugin: type[Method], tmp_path: Path) -> None:
        """Every preset and ablation resolves to a whole configuration."""
        for name in {**plugin.presets, **plugin.ablations}:
            config = resolve(tiny_request(f"{plugin.info.name}@{name}", self.settings))
            assert nested(config.hashed())["preset"] == name

    def test_predict_is_deterministic_and_finite(
        self, plugin: type[Method], tmp_path: Path
    ) -> None:
        """Logits (N, C), the same twice, in eval mode."""
        cell = self._cell(tmp_path)
        method = build_method(cell, make_fabric(cell.config)).eval()
        images = torch.rand(5, *cell.task().input_shape)
        with torch.no_grad():
            first, second = method.predict(images), method.predict(images)
        assert first.shape == (5, cell.task().num_classes)
        assert torch.isfinite(first).all()
        assert torch.equal(first, second)

    def test_every_parameter_gets_a_gradient(
        self, plugin: type[Method], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somewhere in the run; a parameter that never does is dead weight or a bug."""
        touched: set[str] = set()
        names: set[str] = set()
        original = StepEngine.run

        def watched(self: StepEngine, method: Method, *rest: Any) -> Any:
            outputs = original(self, method, *rest)
            for name, parameter in method.named_parameters():
                names.add(name)
                if parameter.grad is not None and bool(parameter.grad.abs().sum() > 0):
                    touched.add(name)
            return outputs

        monkeypatch.setattr(StepEngine, "run", watched)
        self._run(tmp_path)
        assert names - touched - set(self.untrained) == set()

    def test_no_host_sync_in_the_step(
        self, plugin: type[Method], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing in a step waits for the device."""
        original = StepEngine.run

        def trapped(self: StepEngine, *args: Any) -> Any:
            with no_host_sync():
                return original(self, *args)

        monkeypatch.setattr(StepEngine, "run", trapped)
        self._run(tmp_path, epochs=2)

    def test_loss_falls(self, whole: Outcome) -> None:
        """In some stage the loss of the last epoch is below that of the first.

        Not in every one: while a queue fills, its loss compares with more and more entries.
        """
        losses: dict[str, list[float]] = {}
        for row in whole.folder.epochs():
            losses.setdefault(row["stage"], []).append(row["train"]["loss"])
        longer = [values for values in losses.values() if len(values) > 1]
        assert longer, f"every stage of this run has one epoch: {list(losses)}"
        assert any(values[-1] < values[0] for values in longer), f"by stage and epoch: {losses}"

    def test_bf16_is_close_to_fp32(self, whole: Outcome, tmp_path: Path) -> None:
        """The first epoch's loss differs by no more than bf16's rounding can explain."""
        other = self._run(tmp_path, precision="bf16")
        first, second = (o.folder.epochs()[0]["train"]["loss"] for o in (whole, other))
        assert second == pytest.approx(first, rel=0.15, abs=0.05)

    def test_hard_batches(self, plugin: type[Method], tmp_path: Path) -> None:
        """Batches of two images lack most classes, and one class has a single image: all finite."""
        try:
            outcome = self._run(tmp_path, batch_size=2, epochs=2)
        except UsageError as refusal:
            assert "batch" in str(refusal), refusal
            return
        for row in outcome.folder.epochs():
            assert np.isfinite(list(row["train"].values())).all(), row

    def test_same_seed_same_result(self, whole: Outcome, tmp_path: Path) -> None:
        """Bit for bit."""
        assert self._run(tmp_path).record["digest"] == whole.record["digest"]

    def test_another_seed_another_result(self, whole: Outcome, tmp_path: Path) -> None:
        """The seed reaches initialisation and order."""
        assert self._run(tmp_path, seed=1).record["digest"] != whole.record["digest"]

    def test_stop_and_resume(self, whole: Outcome, tmp_path: Path) -> None:
        """Stopped inside an epoch and after one, a run ends with the same bits."""
        outcome = interrupted_run(
            self.method, tmp_path, (2, 4), self.settings, plugins=self.plugins
        )
        assert outcome.record["digest"] == whole.record["digest"]

    def test_stage_settings_act_from_their_stage_on(
        self, plugin: type[Method], whole: Outcome, tmp_path: Path
    ) -> None:
        """Changed, they leave earlier stages bit for bit; taken over, the run ends the same."""
        settings = {key for keys in plugin.stage_settings.values() for key in keys}
        request = tiny_request(self.method, self.settings)
        others = {key: other_value(request, key) for key in settings}
        for stage, keys in plugin.stage_settings.items():
            assert stage in stages_kept(whole), f"no stage '{stage}' follows another in this run"
            changed = {key: others[key] for key in keys}
            alone = self._run(tmp_path / stage, **changed)
            before = stages_kept(whole)[stage], stages_kept(alone)[stage]
            assert state_digest(before[0]) == state_digest(before[1]), f"{keys} act before {stage}"
            again = self._run(whole.folder.path.parents[4], **changed)
            assert again.record["taken_over"]["run"] == whole.folder.name
            assert again.record["digest"] == alone.record["digest"]

    def test_weights_load_safely(self, whole: Outcome) -> None:
        """`torch.load(..., weights_only=True)` reads the state dict: tensors only."""
        state = weights(whole)
        assert state
        assert all(isinstance(value, torch.Tensor) for value in state.values())
