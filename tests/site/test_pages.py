"""What pages say: numbers, links, names, structure."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from html_pages import body_rows, parsed, read, table
from site_runs import CLASSES, HOSTILE, LATER, predictions, row

import ltbench
from ltbench.bundles.portable import portable
from ltbench.report.as_csv import read_csv
from ltbench.results import PREDICTIONS, RunFolder, run_folders
from ltbench.site.naming import run_stems
from ltbench.site.shown import NOTHING
from ltbench.stored_predictions import predictions_digest

SHARED = ("accuracy", "macro_sensitivity", "macro_precision", "macro_f1", "macro_auc")
TAIL = ("head_sensitivity", "medium_sensitivity", "tail_sensitivity", "worst_class_sensitivity")


def pages(folder):
    return {file.relative_to(folder).as_posix(): read(file) for file in folder.rglob("*.html")}


@pytest.fixture(scope="module")
def every(whole):
    return pages(whole)


def test_numbers_are_those_of_the_tables(whole, every, made_once):
    """Bold, text and unrounded mean of every cell, beside two presets of the command `table`."""
    written = {}
    for preset in ("paper", "tail"):
        text, _ = ltbench.table(results=made_once, preset=preset, table_format="csv", mixed=True)
        for line in read_csv(text):
            where = line["dataset"], portable(line["label"]), line["metric"]
            written[where] = line["mean"], line["bold"].lower() in ("true", "1")
    seen = 0
    for name, dataset in (("made-group", "made"), ("other-paper", "other")):
        for cells in body_rows(table(every["index.html"], f"{name}-table")):
            label = cells[0].text.removesuffix(" †")
            for metric, cell in zip((*SHARED, *TAIL), cells[2:-2], strict=True):
                mean, bold = written[dataset, label, metric]
                assert cell.get("data-v") == mean, (label, metric)
                assert bool(list(cell.all("strong"))) == bold, (label, metric)
                shown = cell.text.partition(" ±")[0]
                assert shown == (f"{100 * float(mean):.2f}" if mean else "n/a")
                seen += 1
    assert seen == 6 * 9


def test_texts_and_footer_are_those_of_the_table(every, made_once):
    text, _ = ltbench.table(results=made_once, preset="tail", dataset="made")
    board = every["index.html"]
    section = next(one for one in board.all("section") if one.get("id") == "made-group")
    footer = [item.text for item in section.with_class("notes")[0].all("li")]
    plain = re.sub(r"\\(.)", r"\1", text).replace("&lt;", "<").replace("&gt;", ">")
    for line in footer:
        if line.startswith(("Mean ±", "Provisional:", "†", "Devices:", "Sensitivity, mean")):
            assert line in plain.replace("&amp;", "&")
    assert any(line.startswith("Tuned: focal tuned by val.macro_f1") for line in footer)
    assert any(line.startswith("Bold: not separable from the best") for line in footer)
    shown = [cells[0].text for cells in body_rows(table(board, "made-group-table"))]
    for label in ("ce@strong", "focal tuned"):
        cells = next(
            one for one in body_rows(table(board, "made-group-table")) if one[0].text == label
        )
        mean = re.search(rf"\| {re.escape(label)} .*\|", text)[0]
        assert cells[7].text in mean.replace("*", "")
    assert shown[0] == "ecl †"


def test_rows_stand_best_first_or_by_name(site, made_once):
    folder, _ = site(made_once, sort=None, methods=("ce", "ecl", "ce@strong"))
    board = table(read(folder / "index.html"), "made-group-table")
    assert [cells[0].text for cells in body_rows(board)] == ["ce", "ecl †", "ce@strong"]
    assert not [one for one in board.all("th") if one.get("aria-sort")]
    folder, _ = site(made_once, sort="macro-auc")
    board = table(read(folder / "index.html"), "made-group-table")
    values = [float(cells[6].get("data-v")) for cells in body_rows(board)]
    assert values == sorted(values, reverse=True)
    (heading,) = [one for one in board.all("th") if one.get("aria-sort")]
    assert heading.get("data-sort") == "macro_auc"


def test_links_lead_somewhere(whole, every):
    ids = {
        name: [one.get("id") for one in page.all() if one.get("id")] for name, page in every.items()
    }
    assert all(max(Counter(of).values()) == 1 for of in ids.values()), "an id twice on a page"
    checked = 0
    for name, page in every.items():
        for one in page.all("a", "img", "link", "script"):
            target = urlsplit(one.get("href") or one.get("src"))
            assert not target.scheme, (name, one.attributes)
            assert not target.netloc, (name, one.attributes)
            file = (whole / name).parent.joinpath(unquote(target.path)).resolve()
            if not target.path:
                file = (whole / name).resolve()
            assert file.is_file(), (name, target.path)
            assert file.is_relative_to(whole.resolve())
            if target.fragment:
                other = file.relative_to(whole.resolve()).as_posix()
                assert target.fragment in ids[other], (name, target)
            checked += 1
    assert checked > 300


def test_every_run_and_method_has_a_page(every):
    names = set(every)
    assert sum(name.startswith("runs/") for name in names) == 18
    assert {f"methods/{name}.html" for name in ("ce", "ecl", "focal", "bad", "mine")} <= names


def test_nothing_is_loaded_from_elsewhere(whole, every):
    for file in whole.rglob("*"):
        if file.suffix in (".css", ".js"):
            assert not re.search(r"https?:|@import|url\(|fetch\(|import ", file.read_text("utf-8"))
    for page in every.values():
        policy = next(one for one in page.all("meta") if one.get("http-equiv"))
        assert "default-src 'none'" in policy.get("content")
        assert not list(page.all("iframe", "object", "embed", "base", "video", "audio"))


def test_hostile_names_are_text(every):
    for name, page in every.items():
        scripts = [one.get("src") for one in page.all("script")]
        assert scripts == ["../" * name.count("/") + "assets/site.js"]
        for one in page.all():
            assert not [key for key in one.attributes if key.startswith("on")], one.attributes
            assert one.tag not in ("style", "svg")
            assert "style" not in one.attributes
            assert "\u202e" not in one.text[:10_000]
    index = table(every["index.html"], "made-group-table")
    assert portable(HOSTILE) in [cells[0].text for cells in body_rows(index)]
    run = next(p for name, p in every.items() if name.startswith("runs/") and "bad x=" in p.text)
    names = [cells[0].text for cells in body_rows(table(run, "classes-table"))]
    assert sorted(names) == sorted(CLASSES)
    assert [th.text for th in next(table(run, "confusion-table").all("tr")).all("th")][1:-1] == [
        *CLASSES
    ]


def test_files_have_plain_names(whole):
    for file in whole.rglob("*"):
        assert re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", file.name), file


def test_no_path_of_this_machine_is_told(whole, made_once):
    for file in whole.rglob("*"):
        if file.is_file():
            text = file.read_bytes()
            for place in (made_once, whole, Path.home(), Path(ltbench.__file__).parents[1]):
                assert str(place).encode() not in text, file


def test_structure_for_those_who_do_not_see_it(every):
    for name, page in every.items():
        assert next(page.all("html")).get("lang") == "en"
        assert len(list(page.all("main"))) == len(list(page.all("h1"))) == 1
        assert next(page.all("a")).get("href") == "#main"
        levels = [int(one.tag[1]) for one in page.all("h1", "h2", "h3", "h4")]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels)), name
        for one in page.all("table"):
            assert next(one.all("caption")).text.strip()
            assert all(th.get("scope") for th in one.all("th")), name
        assert all(one.get("alt") for one in page.all("img"))
        labelled = {one.get("for") for one in page.all("label")}
        assert all(one.get("id") in labelled for one in page.all("input", "select"))
        for one in page.with_class("scroll"):
            assert (one.get("role"), one.get("tabindex")) == ("region", "0")


def test_without_scripts_nothing_is_hidden_but_the_filter(every):
    page = every["index.html"]
    hidden = [one for one in page.all() if "hidden" in one.attributes]
    assert [one.get("id") or one.get("class") for one in hidden] == ["filter", "none", "none"]
    assert not list(table(page, "made-group-table").all("button"))


def test_rows_know_what_they_are_filtered_by(every):
    rows = {
        next(row.all("th")).text: row
        for row in table(every["index.html"], "made-group-table").all("tr")
        if row.get("data-find")
    }
    kinds = {label: row.get("data-kind") for label, row in rows.items()}
    assert kinds["ce"] == "default"
    assert kinds["ce@strong"] == "changed"
    assert kinds["focal tuned"] == "tuned"
    assert "baseline" in rows["ce"].get("data-find")  # a tag of the plugin
    assert rows["ce"].get("data-seeds") == "5"


def test_published_figures_stand_apart(site, tmp_path):
    row(tmp_path / "r", "ce", 1.0, seeds=1, dataset="isic2018", protocol="paper")
    folder, _ = site(tmp_path / "r", with_published=True)
    index = read(folder / "index.html")
    bodies = list(table(index, "isic2018-paper-table").all("tbody"))
    assert len(bodies) == 2
    marked = [one for one in bodies[1].all("tr") if one.get("data-kind") == "published"]
    assert len(marked) > 5
    assert all(list(one.all("em")) for one in marked)
    assert not list(bodies[1].all("strong"))


def test_a_run_page_tells_what_its_record_holds(every, made_once):
    run = next(run_folders(made_once, methods=["ce"]))
    record = run.record()
    page = every[f"runs/{record['key']}-seed-0.html"]
    text = page.text
    for told in (record["digests"]["test"], record["split_digest"], LATER, record["command"]):
        assert told in text
    accuracy = body_rows(table(page, "result-table"))[0][1].text
    assert accuracy == f"{100 * record['metrics']['test']['accuracy']:.2f}"
    counts = [
        [int(c.text) for c in cells[1:-1]] for cells in body_rows(table(page, "confusion-table"))
    ]
    assert counts == record["metrics"]["test"]["confusion"]
    epochs = [[cell.text for cell in cells] for cells in body_rows(table(page, "epochs-table"))]
    assert epochs == [["train", str(n), "1.5000", "0.5000", NOTHING] for n in (1, 2, 3)]
    (code,) = [one for one in page.all("pre") if "data-copy" in one.attributes]
    assert code.text == record["command"]
    mistakes = page.with_class("mistakes")[0]
    assert len([one for one in mistakes.children if getattr(one, "tag", "") == "li"]) == 12


def test_settings_that_differ_come_first(site, tmp_path):
    config = ltbench_config("ce", optimizer=0.5)
    row(tmp_path / "r", "ce", 1.0, seeds=1, dataset="digits_lt")
    (run,) = run_folders(tmp_path / "r")
    run.write_config(config)
    folder, _ = site(tmp_path / "r", pictures=False)
    page = read(next((folder / "runs").glob("*.html")))
    assert [[c.text for c in cells] for cells in body_rows(table(page, "changed-table"))] == [
        ["optimizer.lr", "0.5", "0.1"]
    ]
    assert "weight_decay: 0.0005" in page.with_class("config")[0].text
    assert str(tmp_path) not in page.text


def ltbench_config(method, optimizer):
    from ltbench.config import Request, resolve

    settings = {"optimizer.lr": optimizer}
    return resolve(Request(method, "digits_lt", settings=settings)).model_dump(mode="json")


def test_a_method_without_its_plugin_has_a_page_of_its_records(every):
    page = every["methods/bad.html"]
    assert "No plugin 'bad' is installed here" in page.text
    assert len(body_rows(table(page, "made-group-table"))) == 1


def test_a_method_page_is_its_card(every):
    from ltbench.catalogue import about

    page, facts = every["methods/ecl.html"], about("ecl")
    plain = " ".join(page.text.split())
    assert all(" ".join(text.replace("`", "").split()) in plain for text in facts["departures"])
    assert all(f"ecl@{name}" in plain for name in (*facts["presets"], *facts["ablations"]))
    checks = body_rows(table(page, "golden-table"))
    assert [cells[0].text for cells in checks] == [one["case"] for one in facts["golden"]["checks"]]
    assert all(function["name"] in plain for function in facts["equations"])


def test_runs_without_a_result_are_listed(site, made_once, tmp_path):
    root = tmp_path / "r"
    row(root, "ce", 1.0, seeds=1)
    failed = RunFolder.at(root, dataset="made", protocol="group", method="ce", key="ab12", seed=3)
    failed.write_failure({"message": f"loss is NaN in {failed.path / 'x.py'} <b>\nat epoch 3"})
    stopped = RunFolder.at(root, dataset="made", protocol="group", method="new", key="cd", seed=0)
    stopped.path.mkdir(parents=True)
    stopped.append_epoch({"stage": "train", "epoch": 1, "epochs": 9})
    folder, _ = site(root)
    listed = body_rows(table(read(folder / "index.html"), "unfinished-table"))
    assert [[c.text for c in cells[:5]] for cells in listed] == [
        ["ab12/seed-3", "ce", "made, group", "failed", "-"],
        ["cd/seed-0", "new", "made, group", "stopped", "train 2/9"],
    ]
    assert "loss is NaN in" in listed[0][5].text
    assert str(tmp_path) not in listed[0][5].text
    assert "No run is finished." in read(folder / "methods" / "new.html").text


def test_records_and_predictions_that_cannot_be_used(site, tmp_path):
    root = tmp_path / "r"
    row(root, "ce", 1.0, seeds=2)
    row(root, "ecl", 1.0, seeds=1)
    runs = list(run_folders(root, methods=["ce"]))
    (runs[0].path / PREDICTIONS).write_bytes(b"no npz")
    (runs[1].path / PREDICTIONS).unlink()
    (runs[1].path / "config.json").write_text("{")
    runs[1].epochs_file.write_text("{\n")
    old = RunFolder.at(root, dataset="made", protocol="group", method="old", key="ab12", seed=0)
    old.path.mkdir(parents=True)
    (old.path / "record.json").write_text(json.dumps({"schema_version": 99}))
    folder, made = site(root, bold=True)
    assert len(made.notes) == 1
    index = read(folder / "index.html").text
    assert "schema version 99" in index
    assert "made/group/old/ab12/seed-0" in index
    first, second = (
        read(folder / "runs" / f"{r.record()['key']}-{r.path.name}.html") for r in runs
    )
    assert "The run's predictions cannot be used: predictions.npz is damaged" in first.text
    assert "predictions are not here" in second.text
    assert "is damaged" in second.text  # its history
    assert str(tmp_path) not in first.text + second.text + index


def test_predictions_with_nan_are_told(site, tmp_path):
    given = predictions(1.0, 0)
    row(tmp_path / "r", "ce", 1.0, seeds=1, test=given)
    broken = np.array(given.logits)
    broken[3, 1] = np.nan
    (run,) = run_folders(tmp_path / "r")
    diverged = replace(given, logits=broken)
    run.write_predictions({"test": diverged})
    run.write_record(run.record() | {"digests": {"test": predictions_digest(diverged)}})
    folder, _ = site(tmp_path / "r")
    page = read(next((folder / "runs").glob("*.html"))).text
    assert "1 of 62 images have a logit that is NaN or infinite" in page


def test_mistakes_are_those_of_the_record_s_predictions(site, tmp_path):
    """A file of other predictions, whole as it is, says nothing of the numbers above."""
    row(tmp_path / "runs", "ce", 2.0, seeds=1)
    run = next(run_folders(tmp_path / "runs"))
    run.write_predictions({"test": predictions(1.0, 7)})
    folder, _ = site(tmp_path / "runs")
    page = read(next((folder / "runs").glob("*.html")))
    assert "predictions of 'test' are not those its record was made from" in page.text
    assert page.with_class("mistakes") == []
    assert str(tmp_path) not in page.text


def test_a_configuration_that_is_none_is_shown_as_it_is(site, tmp_path):
    row(tmp_path / "runs", "ce", 2.0, seeds=1)
    run = next(run_folders(tmp_path / "runs"))
    run.write_config({"method_name": "ce", "dataset_name": "digits_lt", "dataset": "none"})
    folder, _ = site(tmp_path / "runs")
    assert "dataset: none" in read(next((folder / "runs").glob("*.html"))).text


def test_many_classes_are_told_by_what_is_confused_most(site, tmp_path):
    classes, counts = [f"class {i}" for i in range(40)], [3] * 40
    row(tmp_path / "r", "ce", 1.0, seeds=1, test=predictions(1.0, 0, classes, counts))
    (run,) = run_folders(tmp_path / "r")
    matrix = np.array(run.record()["metrics"]["test"]["confusion"])
    np.fill_diagonal(matrix, 0)
    folder, _ = site(tmp_path / "r")
    page = read(next((folder / "runs").glob("*.html")))
    rows = body_rows(table(page, "confusion-table"))
    assert len(rows) == 20
    assert int(rows[0][2].text) == matrix.max()
    assert len(body_rows(table(page, "classes-table"))) == 40


def test_names_of_pages_are_never_shared():
    keys = ["ab12", "AB12", "../x", "..\\x", "x", "x/../x", "", "\ud800", "a" * 400, "Ж", "皮膚"]
    stems = run_stems([{"key": key, "seed": 0} for key in keys])
    assert len(set(stems.values())) == len(keys)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_-]*", stem) for stem in stems.values())
    assert stems["ab12", 0] == "ab12-seed-0"
    clash = f"{stems['AB12', 0].removesuffix('-seed-0')}"
    both = run_stems([{"key": key, "seed": 0} for key in ("AB12", clash)])
    assert len(set(both.values())) == 2


def test_several_splits_of_a_data_set_are_boards_each(site, tmp_path):
    for number, name in enumerate(("ce", "ecl")):
        row(tmp_path / "r", name, 1.0, seeds=1, split_digest=f"{number}" * 64)
    folder, made = site(tmp_path / "r")
    titles = [one.text for one in read(folder / "index.html").all("h2")][:2]
    assert titles == [f"made, protocol group, split {n * 8}" for n in ("0", "1")]
    assert made.num_boards == 2


def test_prose_is_escaped():
    from ltbench.site.pages import prose

    html = prose("A `x < y` and <b>.\n\n  f = a & b\x07\n\nlast")
    assert [one.tag for one in parsed(str(html)).all()] == ["p", "code", "pre", "p"]
    assert parsed(str(html)).text == "A x < y and <b>.\n  f = a & b\N{REPLACEMENT CHARACTER}\nlast"
