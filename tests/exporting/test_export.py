"""`export`: the same logits from ONNX Runtime, weights with their facts, and the model card."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import ltbench
from ltbench.errors import DataMissingError, VerificationError
from ltbench.exporting import onnx_model
from ltbench.exporting.card import model_card
from ltbench.exporting.facts import steps_before
from ltbench.registry import DATASETS, METHODS
from ltbench.testing import tiny_run
from ltbench.testing.tiny import TOY_BLOBS
from ltbench.trained import load_trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    results = tmp_path_factory.mktemp("runs")
    tiny_run("ce", results, {"epochs": 1, "seed": 1})
    return tiny_run("ce", results, {"epochs": 1}).folder


def test_safetensors(run, tmp_path, bench):
    out = tmp_path / "made" / "model.safetensors"
    words = ("export", run.path, "--to", "safetensors", "--out", out, "--plugin", TOY_BLOBS)
    answer = bench(*words)
    assert (answer.code, answer.err) == (0, "")
    first = out.read_bytes()
    assert json.loads(bench(*words, "--json").out)["num_bytes"] == len(first)
    assert out.read_bytes() == first
    state = torch.load(run.path / "best.pt", weights_only=True)
    came = load_file(out)
    assert set(came) == set(state)
    assert all(torch.equal(came[name], state[name]) for name in state)
    with safe_open(out, framework="pt") as file:
        facts = file.metadata()
    assert json.loads(facts["class_names"]) == [f"blob {i}" for i in range(4)]
    assert facts["normalisation"] == "outside"
    assert facts["backbone"] == load_trained(run).config.backbone
    assert facts["before_views"] == ""  # toy_blobs has no store
    assert json.loads(facts["mean"]) == run.record()["input"]["mean"]
    assert facts["weights_digest"] == run.record()["digests"]["weights"]


def test_the_card_says_what_must_be_known(run, tmp_path):
    found = ltbench.export(run.path, "safetensors", tmp_path / "model.safetensors")
    assert found.card.name == "model.safetensors.md"
    text = found.card.read_text(encoding="utf-8")
    record = run.record()
    for part in (
        "trained on toy_blobs",
        "not a medical\n  device",
        "float32 (N, 1, 8, 8), grey, 8-bit pixels divided by 255",
        "yours to do",
        "Licence of the data: MIT",
        "Protocol: held_out; split",
        "Leak: groups are not known",
        "Training images by class: blob 0 24, blob 1 11, blob 2 4, blob 3 1",
        "over the seeds 0, 1; this file is seed 0",
        "provisional",
        record["digest"],
        record["digests"]["weights"],
    ):
        assert part in text, part
    assert re.search(r"^blob 3 +1 +6 ", text, re.M), "the counts behind each class's numbers"
    assert str(run.path) not in text


def test_the_card_shows_names_as_they_are(run, monkeypatch):
    """Class names are a user's own; one with a comma would be read as two."""
    trained = load_trained(run)
    names = ["naevus, common", "<img src=x>", "a_b_c", "*x*"]
    monkeypatch.setitem(trained.record, "class_names", names)
    text = model_card(trained, "safetensors", {})
    assert 'in this order: "naevus, common", &lt;img src=x&gt;,' in text
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    assert "<img" not in outside


def test_what_the_store_does_is_told(run, monkeypatch):
    """An exported model alone does not say how the pictures it was trained on were scaled."""
    from ltbench.store.dataset import StoredConfig

    trained = load_trained(run)
    trained = replace(
        trained,
        config=trained.config.model_copy(
            update={"dataset": StoredConfig(short_side=64, squares=(32,))}
        ),
    )
    told = steps_before(trained)
    assert "a shorter side of at most 64 (bicubic)" in told
    assert "a resize to 32 x 32" in told
    assert f"- A picture is first {told}." in model_card(trained, "safetensors", {})


def test_the_card_tells_external_tests(run, tmp_path):
    folder = run.path / "external" / "there-0"
    folder.mkdir(parents=True)
    told = {
        "dataset": "their_clinic",
        "protocol": "all images",
        "num_images": 77,
        "metrics": {"test": {"balanced_accuracy": 0.5}},
    }
    (folder / "record.json").write_text(json.dumps(told))
    text = model_card(load_trained(run), "onnx", {"random": 1e-7})
    assert "their_clinic, all images: 77 images, balanced accuracy 50.00" in text
    assert "inside the model" in text
    assert "1.0e-07 on random pictures" in text


def test_a_missing_package_is_named(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataMissingError, match=r"pip install 'ltbench\[export\]'"):
        onnx_model.import_needed("onnx")


OWN_METHODS = [name for name in METHODS.own_names() if not name.startswith("toy")]


@pytest.mark.services
@pytest.mark.parametrize("method", OWN_METHODS)
def test_onnx_gives_the_same_logits_for_every_method(method, tmp_path):
    """On random pictures, and on the test pictures with the predictions that the run stored."""
    import onnx
    import onnxruntime

    run = tiny_run(method, tmp_path / "runs").folder
    out = tmp_path / "model.onnx"
    found = ltbench.export(run.path, "onnx", out)
    assert set(found.differences) == {"random", "real"}
    assert max(found.differences.values()) <= 1e-4
    assert found.note == ""
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    plugin = DATASETS["toy_blobs"]
    source = plugin(plugin.Config()).load("held_out")
    stored = run.read_predictions("test")
    at = {name: i for i, name in enumerate(source.ids.tolist())}
    pixels = np.stack([source.images.picture(at[name]) for name in stored.ids.tolist()])
    images = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
    (logits,) = session.run(["logits"], {"images": images})
    scale = max(1.0, float(np.abs(stored.logits).max()))
    assert np.abs(logits - stored.logits).max() <= 1e-4 * scale
    model = onnx.load(out)
    onnx.checker.check_model(model)
    facts = {one.key: one.value for one in model.metadata_props}
    assert facts["normalisation"] == "inside"
    assert json.loads(facts["class_names"]) == list(stored.class_names)
    assert "on the scale 0..1" in facts["input"]
    assert [one.version for one in model.opset_import if one.domain == ""] == [onnx_model.OPSET]
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][
        1:
    ] == [1, 8, 8]


@pytest.mark.services
def test_no_source_code_of_this_machine_is_in_the_model(run, tmp_path):
    out = tmp_path / "model.onnx"
    ltbench.export(run.path, "onnx", out)
    first = out.read_bytes()
    assert b".py" not in first.replace(b"bench.py", b"")
    ltbench.export(run.path, "onnx", out)
    assert out.read_bytes() == first


@pytest.mark.services
def test_a_model_with_other_logits_is_not_written(run, tmp_path, monkeypatch):
    data = onnx_model.onnx_bytes(load_trained(run))
    other = load_trained(run)
    with torch.no_grad():
        other.method.head.bias[0] += 0.01
    with pytest.raises(VerificationError, match="gives other logits than torch"):
        onnx_model.check_onnx(data, other, None)


@pytest.mark.services
def test_without_the_data_random_pictures_are_tried(run, tmp_path, monkeypatch):
    def gone(folder, data_root):
        raise DataMissingError("toy data are not here")

    monkeypatch.setattr("ltbench.exporting.work.data_of", gone)
    found = ltbench.export(run.path, "onnx", tmp_path / "model.onnx")
    assert set(found.differences) == {"random"}
    assert "random pictures only: toy data are not here" in found.note
