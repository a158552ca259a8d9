"""The contract, proven on toys of the kinds of method that are hardest to fit into one loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltbench.testing import MethodConformance, interrupted_run, tiny_run
from ltbench.testing.processes import two_process_digests

HERE = Path(__file__).parent
TOYS = sorted(file.stem for file in HERE.glob("toy_*.py"))


def plugin(toy):
    return (HERE / f"{toy}.py",)


class TestBBN(MethodConformance):
    method = "toy_bbn"
    plugins = plugin("toy_bbn")


class TestMoCo(MethodConformance):
    method = "toy_moco"
    plugins = plugin("toy_moco")
    untrained = tuple(
        f"momentum_backbone.net.{name}"
        for name in [
            "conv1.weight",
            "bn1.weight",
            "bn1.bias",
            *(
                f"layer{i}.0.{part}"
                for i in (1, 2, 3)
                for part in (
                    "conv1.weight",
                    "conv2.weight",
                    "bn1.weight",
                    "bn1.bias",
                    "bn2.weight",
                    "bn2.bias",
                )
            ),
        ]
    )


class TestCRT(MethodConformance):
    method = "toy_crt"
    plugins = plugin("toy_crt")


class TestSAM(MethodConformance):
    method = "toy_sam"
    plugins = plugin("toy_sam")


class TestExperts(MethodConformance):
    method = "toy_experts"
    plugins = plugin("toy_experts")


class TestProxies(MethodConformance):
    method = "toy_proxies"
    plugins = plugin("toy_proxies")


@pytest.mark.parametrize("toy", TOYS)
def test_killed_at_any_step(toy, tmp_path):
    """Stopped after every single look at the signal, the run still ends with the same bits."""
    whole = tiny_run(toy, tmp_path / "whole", {"epochs": 2}, plugins=plugin(toy))
    steps = whole.record["ledger"]["steps"]
    broken = interrupted_run(
        toy, tmp_path / "broken", [1] * (steps // 2), {"epochs": 2}, plugins=plugin(toy)
    )
    assert broken.record["digest"] == whole.record["digest"]


def test_two_processes(tmp_path):
    """DDP: the same weights on both devices; stopped and started again, the same bits."""
    files = [plugin(toy)[0] for toy in TOYS]
    # 18 steps an epoch: devices agree on stopping at the 16th, inside the epoch.
    settings = {"epochs": 2, "batch_size": 4, "dataset.train_counts": [40, 20, 10, 2]}
    found = two_process_digests([*TOYS, "ecl"], tmp_path, settings, plugins=files)
    for toy, digests in found.items():
        assert digests["resumed"] == digests["whole"], toy
        assert digests["states"][0] == digests["states"][1], toy
