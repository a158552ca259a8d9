"""Bad input, end to end: one message on stderr, the right exit code, nothing lost."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltbench.registry import DATASETS, METHODS

Bench = Callable[..., Any]

CE = ["run", "--method", "ce", "--dataset", "digits_lt", "--epochs", "1", "--threads", "1"]


def one_message(answer: Any, code: int) -> str:
    """The single message of a command that failed without starting anything."""
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("error:") == 1
    assert "Traceback" not in answer.err
    return str(answer.err)


def folder_of(bench: Bench, results: Path, *flags: object) -> Path:
    """Where a run would go."""
    answer = bench(*CE, "--results", results, *flags, "--dry-run")
    return Path(re.findall(r"^folder: +(.*)$", answer.out, re.MULTILINE)[0])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set", "learning_rate=1"], ["learning_rate: no such setting"]),
        (["--set", "optimizer.lrr=1"], ["Did you mean 'optimizer.lr'?"]),
        (["--set", "optimizer.lr=fast"], ["optimizer.lr: expected number > 0; got 'fast'"]),
        (["--set", "optimizer.lr=yes"], ["expected number > 0; got true (YAML reads yes"]),
        (["--set", "epochs"], ["--set takes key=value", "got 'epochs'"]),
        (["--epochs", "0"], ["epochs: expected integer >= 1; got 0"]),
        (["--threads", "0"], ["machine.threads: expected integer >= 1"]),
        (["--precision", "16"], ["precision: expected 32 | bf16 | auto; got '16'"]),
        (["--select", "best"], ["select: expected val.accuracy | "]),
        (["--set", "dataset.imbalance=0.01"], ["at least 1", "for the factor 0.01 write 100"]),
        (["--set", "dataset.imbalance=5000"], ["imbalance", "104"]),
        (["--batch-size", "1000"], ["batch_size is 1000", "351 images", "drop_last=false"]),
        (["--batch-size", "33", "--devices", "2"], ["batch_size 33 is not divisible"]),
        (["--batch-size", "33", "--set", "optimizer.accumulate=2"], ["33 is not divisible"]),
        (["--backbone", "resnet8_cifr"], ["Did you mean 'resnet8_cifar'"]),
        (["--protocol", "published"], ["Unknown protocol of digits_lt", "held_out"]),
        (["--recipe", "digit"], ["Unknown recipe 'digit'. Did you mean 'digits'"]),
        (["--recipe", "none.yaml"], ["Cannot read the settings file none.yaml"]),
        (["--config", "none.yaml"], ["Cannot read the settings file none.yaml"]),
        (["--seeds", "a-b"], ["--seeds takes 0-4 or 0,2,5; got 'a-b'"]),
        (["--seed", "0", "--seeds", "0-2"], ["Give --seed or --seeds, not both"]),
        (["--seed", "-1"], ["seed: expected integer >= 0"]),
        (["--plugin", "none.py"], ["No plugin file at"]),
        (["--method", ","], ["Expected a name"]),
        (["--method", "elc"], ["Unknown method 'elc'. Did you mean 'ecl'?"]),
        (["--device", "cuda", "--devices", "99", "--batch-size", "99"], ["CUDA device"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_what_cannot_be_run_is_refused(
    bench: Bench, tmp_path: Path, flags: list[str], said: list[str]
) -> None:
    answer = bench(*CE, *flags, "--results", tmp_path, "--dry-run")
    message = one_message(answer, 2)
    assert [text for text in said if text not in message] == []
    assert list(tmp_path.rglob("record.json")) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "Unknown command 'rnu'. Did you mean 'run'?"),
        (["data", "shwo", "digits_lt"], "Unknown command 'shwo'. Did you mean 'show'?"),
        ([*CE, "--epoch", "3"], "No such option '--epoch'. Did you mean '--epochs'?"),
        (["run", "--method", "ce"], "Missing option '--dataset'"),
        ([*CE, "--epochs", "many"], "'many' is not a valid integer"),
        ([*CE, "--resume", "maybe"], "'maybe' is not one of 'auto', 'never'"),
        (["list"], "Missing argument"),
        (["table", "--format", "pdf"], "'pdf' is not one of"),
    ],
)
def test_wrong_usage(bench: Bench, arguments: list[str], said: str) -> None:
    answer = bench(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert "Traceback" not in answer.err


def test_several_problems_are_one_message(bench: Bench, tmp_path: Path) -> None:
    flags = ["--epochs", "0", "--set", "optimizer.lr=-1", "--set", "method.gamma=2"]
    message = one_message(bench(*CE, *flags, "--results", tmp_path), 2)
    assert message.startswith("error: 3 problems in the configuration:\n")
    assert len(message.splitlines()) == 4


def test_missing_data_say_how_to_get_them(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = importlib.import_module("ltbench.datasets.fashion_mnist_lt")
    monkeypatch.setattr(plugin, "DEBIAN_FOLDER", tmp_path / "none")
    monkeypatch.setenv("LTBENCH_DATA", str(tmp_path / "none"))
    fashion = ["--method", "ce", "--dataset", "fashion_mnist_lt", "--data-root", tmp_path]
    for command in (["run", *fashion, "--results", tmp_path], ["data", "show", *fashion[3:]]):
        message = one_message(bench(*command), 3)
        assert "bench.py data fetch fashion_mnist_lt" in message
        assert str(tmp_path) in message


def test_damaged_data_are_named(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = importlib.import_module("ltbench.datasets.fashion_mnist_lt")
    file = tmp_path / f"{next(iter(plugin.MD5))}.gz"
    file.write_bytes(b"\x1f\x8bcut")
    fashion = ["--dataset", "fashion_mnist_lt", "--data-root", tmp_path]
    message = one_message(bench("run", "--method", "ce", *fashion, "--results", tmp_path), 4)
    assert f"{file} is damaged" in message
    assert file.exists()


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(errno.ENOSPC, 1, "is full"), (errno.EDQUOT, 1, "is full"), (errno.EROFS, 2, "be written to")],
)
def test_a_results_folder_that_takes_nothing(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
    said: str,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    message = one_message(bench(*CE, "--results", tmp_path), code)
    assert said in message
    assert "--results" in message
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_a_results_folder_below_a_file(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    message = one_message(bench(*CE, "--results", tmp_path / "file" / "runs"), 2)
    assert "Expected a folder at" in message
    answer = bench(*CE, "--results", tmp_path / "file")
    assert (answer.code, answer.out) == (2, "")
    assert "is a file" in answer.err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_fills_up_costs_no_training(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "predictions.npz":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        answer = bench(*CE, "--results", tmp_path)
    assert answer.code == 1
    assert answer.err.count("error:") == 1
    assert "is full" in answer.err
    assert list(tmp_path.rglob("record.json")) == []
    again = bench(*CE, "--results", tmp_path)
    assert (again.code, again.err) == (0, "")
    assert "goes on from its checkpoint" in again.out
    assert "epoch 1/1" not in again.out


def test_a_half_written_record_is_kept_and_the_run_done_again(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert bench(*CE, "--results", tmp_path).code == 0
    (record,) = tmp_path.rglob("record.json")
    whole = json.loads(record.read_text())
    record.write_bytes(torn := record.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        answer = bench(*CE, "--results", tmp_path)
    assert answer.code == 0
    assert "already done" not in answer.out
    assert "kept as record.json.damaged-1" in caplog.text
    assert record.with_name("record.json.damaged-1").read_bytes() == torn
    assert json.loads(record.read_text())["digest"] == whole["digest"]


@pytest.mark.parametrize("content", [b"", b"junk", b"ltbench-checkpoint-1\n" + bytes(64)])
def test_a_corrupt_checkpoint_is_left_as_it_is(
    bench: Bench, tmp_path: Path, content: bytes
) -> None:
    checkpoint = folder_of(bench, tmp_path) / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(content)
    answer = bench(*CE, "--results", tmp_path)
    assert answer.code == 4
    assert answer.err.count("error:") == 1
    assert f"The checkpoint {checkpoint} is damaged" in answer.err
    assert "--resume never" in answer.err
    assert checkpoint.read_bytes() == content
    assert list(tmp_path.rglob("record.json")) == []


def test_a_corrupt_checkpoint_is_passed_over_when_asked(bench: Bench, tmp_path: Path) -> None:
    checkpoint = folder_of(bench, tmp_path) / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"junk")
    answer = bench(*CE, "--results", tmp_path, "--resume", "never")
    assert (answer.code, answer.err) == (0, "")
    assert "epoch 1/1" in answer.out


def test_table_tells_of_damaged_records(bench: Bench, tmp_path: Path) -> None:
    run = tmp_path / "digits_lt" / "held_out" / "ce" / "0123456789abcdef" / "seed-0"
    run.mkdir(parents=True)
    (run / "record.json").write_text('{"schema_version": 1, "met')
    answer = bench("table", "--results", tmp_path)
    assert (answer.code, answer.out) == (3, "")
    assert f"{run / 'record.json'} is damaged" in answer.err


@pytest.mark.usefixtures("own_registries")
def test_a_plugin_that_raises_fails_alone(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "broken_one.py"
    file.write_text(
        "from ltbench.method import METHODS\n"
        "raise RuntimeError('on purpose')\n"
        "@METHODS.register('broken_one', paper='Nobody, Nowhere')\nclass A: pass\n"
    )
    listed = bench("list", "methods", "--plugin", file)
    assert (listed.code, listed.err) == (0, "")
    assert "Nobody, Nowhere" in listed.out
    presets = bench("list", "presets")
    assert (presets.code, presets.err) == (0, "")
    assert "on purpose" in presets.out
    assert "ecl@paper" in presets.out
    for command in (["describe", "broken_one"], [*CE, "--method", "broken_one"]):
        message = one_message(bench(*command), 1)
        assert "'broken_one' could not be imported: RuntimeError: on purpose" in message
        assert "the other plugins are not affected" in message
    assert bench("describe", "ce").code == 0


@pytest.mark.usefixtures("own_registries")
def test_a_plugin_without_its_package(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "needy_one.py"
    file.write_text("import no_such_package_at_all\n")
    answer = bench("describe", "needy_one", "--plugin", file)
    assert one_message(answer, 3).endswith("pip install no_such_package_at_all\n")


def test_an_unforeseen_fault_is_one_message_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(kind: str) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("ltbench.listing.rows", fault)
    message = one_message(bench("list", "methods"), 1)
    assert "unexpected ZeroDivisionError: by nothing" in message
    assert "--debug" in message
    for arguments in (["--debug", "list", "methods"], ["list", "methods", "--debug"]):
        with pytest.raises(ZeroDivisionError):
            bench(*arguments)


def test_the_registries_are_as_they_were() -> None:
    """What `own_registries` promises to the tests that come after."""
    assert "broken_one" not in METHODS
    assert "needy_one" not in METHODS
    assert "fresh_dataset" not in DATASETS
