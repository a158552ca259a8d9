"""The folder of a site: made again only where needed, whole at any time, never another's."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from html_pages import read
from site_runs import row

from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.results import run_folders
from ltbench.site import making
from ltbench.site.folder import MANIFEST


@pytest.fixture
def root(tmp_path):
    row(tmp_path / "runs", "ce", 2.0, seeds=2)
    row(tmp_path / "runs", "ecl", 1.5, seeds=2)
    return tmp_path / "runs"


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def times(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


def test_the_same_runs_give_the_same_bytes(site, root, tmp_path):
    """Wherever they lie."""
    first, _ = site(root)
    elsewhere = shutil.copytree(root, tmp_path / "other" / "place")
    second, _ = site(elsewhere, out=tmp_path / "second")
    assert contents(first) == contents(second)


def test_the_same_command_again_does_nothing(site, root):
    folder, made = site(root)
    assert made.num_written == len(contents(folder)) - 1  # the manifest
    before = times(folder)
    _, again = site(root)
    assert times(folder) == before
    assert (again.num_written, again.num_removed) == (0, 0)
    assert again.num_kept == made.num_written


def test_only_what_changed_is_made_again(site, root):
    folder, _ = site(root)
    before = contents(folder)
    run = next(run_folders(root, methods=["ecl"]))
    run.write_record({**run.record(), "finished_at": "2027-01-01T00:00:00+00:00"})
    site(root)
    changed = {name for name, data in contents(folder).items() if before[name] != data}
    assert changed == {f"runs/{run.record()['key']}-seed-0.html", "index.html", MANIFEST}


def test_pages_that_were_edited_or_lost_are_made_again(site, root):
    folder, _ = site(root)
    before = contents(folder)
    pages = sorted((folder / "runs").iterdir())
    pages[0].write_text("edited")
    pages[1].unlink()
    (folder / "assets" / "site.css").unlink()
    site(root)
    assert contents(folder) == before


def test_pages_of_runs_that_are_gone_are_removed(site, root):
    folder, _ = site(root)
    _, made = site(root, methods=("ce",))
    names = contents(folder)
    assert made.num_removed == 3  # two runs, a method
    assert not [name for name in names if "ecl" in name]
    assert "ecl" not in read(folder / "index.html").text
    (folder / "CNAME").write_text("kept: it is in nobody's way")
    site(root, methods=("ecl",))
    assert (folder / "CNAME").is_file()


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "runs/mine.html"])
def test_a_folder_with_something_else_is_refused(site, root, tmp_path, name):
    file = tmp_path / "site" / name
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    with pytest.raises(UsageError, match="Give another --out"):
        site(root)
    assert contents(tmp_path / "site") == {name: b"precious"}


def test_a_file_of_others_among_the_pages_is_refused(site, root):
    folder, _ = site(root)
    (folder / "runs" / "mine.html").write_text("precious")
    before = contents(folder)
    with pytest.raises(UsageError, match=r"runs/mine\.html .*no site wrote this"):
        site(root)
    assert contents(folder) == before


def test_a_file_in_place_of_the_folder_is_refused(site, root, tmp_path):
    (tmp_path / "site").write_text("precious")
    with pytest.raises(UsageError, match="found a file"):
        site(root)


def test_a_manifest_that_leads_out_of_the_folder_is_refused(site, root, tmp_path):
    folder, _ = site(root)
    (tmp_path / "precious").write_text("x")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["units"]["x"] = {"stamp": "", "files": {"../precious": "0"}, "note": ""}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match="lie in it"):
        site(root)
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("listed", [{"begun": ["old/"]}, {"units": "old/precious"}, {}])
def test_nothing_is_written_or_removed_through_a_link(site, root, tmp_path, listed):
    """Whatever a manifest that came from elsewhere says, or a link in the site's place."""
    folder, _ = site(root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    manifest = json.loads((folder / MANIFEST).read_text())
    link = folder / "old"
    if "begun" in listed:
        manifest["begun"] = listed["begun"]
    elif "units" in listed:
        manifest["units"]["x"] = {"stamp": "", "files": {listed["units"]: "0"}, "note": ""}
    else:
        link = folder / "figures" / "mine"
        link.parent.mkdir()
    if listed:
        (elsewhere / "precious").write_text("x")
    link.symlink_to(elsewhere)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    before = contents(elsewhere)
    with pytest.raises(UsageError, match="is a link to another folder"):
        site(root, methods=("ce",))
    assert contents(elsewhere) == before
    link.unlink()
    site(root)


@pytest.mark.parametrize("text", ["{", '{"kind": "ltbench site", "units": 3}'])
def test_a_damaged_manifest_is_told(site, root, text):
    folder, _ = site(root)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(VerificationError, match="damaged"):
        site(root)


def test_what_was_cut_short_is_finished_by_the_same_command(site, root, monkeypatch, tmp_path):
    """Killed before the first page was written; then for other runs, whose pages alone remain."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(making, "first_page", killed)
        with pytest.raises(KeyboardInterrupt):
            site(root)
    folder = tmp_path / "site"
    assert not (folder / "index.html").exists()
    (folder / "runs" / ".ltbench-1-ab.tmp").write_text("half a page")
    site(root, methods=("ce",))
    whole, _ = site(root, methods=("ce",), out=tmp_path / "whole")
    assert contents(folder) == contents(whole)


def test_an_old_site_is_whole_until_the_new_one_is(site, root, monkeypatch):
    folder, _ = site(root)
    links = re.findall(r'href="([^"#]+)', (folder / "index.html").read_text())

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "first_page", killed)
    with pytest.raises(KeyboardInterrupt):
        site(root, methods=("ce",))
    assert all((folder / link).is_file() for link in links)


def test_nothing_to_show_is_told(site, root, tmp_path):
    with pytest.raises(DataMissingError, match="Did you mean 'ecl'"):
        site(root, methods=("elc",))
    assert not (tmp_path / "site").exists()


def test_options_that_cannot_be(site, root):
    with pytest.raises(UsageError, match="Expected 0 mistakes"):
        site(root, num_mistakes=-1)
    with pytest.raises(UsageError, match="Expected 1 process"):
        site(root, jobs=0)
    with pytest.raises(UsageError, match="No column 'speed'"):
        site(root, sort="speed")
    with pytest.raises(UsageError, match="not both"):
        site(root, boards=(root,))


def test_figures_without_matplotlib_are_refused_at_once(site, root, tmp_path, monkeypatch):
    monkeypatch.setattr("ltbench.figures.canvas.find_spec", lambda name: None)
    with pytest.raises(DataMissingError, match=r"ltbench\[plots\].*--no-figures"):
        site(root, figures=True)
    assert not (tmp_path / "site").exists()


def test_figures_are_files_with_captions(site, root):
    _, plain = site(root)
    folder, made = site(root, figures=True)
    drawn = sorted((folder / "figures").rglob("*.svg"))
    assert len(drawn) > 4 * 4
    assert all(b"<svg" in file.read_bytes()[:600] for file in drawn)
    assert all(str(root).encode() not in file.read_bytes() for file in drawn)
    run = next((folder / "runs").glob("*.html"))
    figures = list(read(run).all("figure"))
    assert len(figures) >= 4
    for figure in figures:
        (image,) = figure.all("img")
        (link,) = figure.all("a")
        assert (run.parent / image.get("src")).is_file()
        assert link.get("href") == image.get("src")
        assert image.get("alt")
        assert next(figure.all("figcaption")).text
    method = read(folder / "methods" / "ce.html")
    assert list(method.all("figure"))
    assert list(read(folder / "index.html").all("figure"))
    before = times(folder)
    site(root, figures=True)
    assert times(folder) == before
    # A page that changes takes its figures over.
    _, again = site(root, figures=True, num_mistakes=3)
    assert again.num_written == 4
    _, without = site(root)
    assert not (folder / "figures").exists()
    assert without.num_runs == plain.num_runs == made.num_runs


def test_figures_tell_no_path_of_a_label(site, tmp_path):
    """They draw names on one line."""
    for name, told in (
        ("ce", "ce  weights=/home/someone/w.pt"),
        ("ecl", "ecl x=/home/someone/a&b"),
    ):
        row(tmp_path / "runs", name, 2.0, seeds=2, told=told)
    folder, _ = site(tmp_path / "runs", figures=True)
    assert [name for name, data in contents(folder).items() if b"someone" in data] == []


def test_figures_that_cannot_be_drawn_say_why(site, root):
    run = next(run_folders(root))
    run.epochs_file.unlink()
    folder, _ = site(root, figures=True)
    page = read(folder / "runs" / f"{run.record()['key']}-seed-0.html").text
    assert "Training curves, not drawn: the run has no history" in page
