"""A grid from flags and files: what it holds, what wins, what is refused."""

from pathlib import Path

import pytest

from ltbench.config import resolve
from ltbench.errors import UsageError
from ltbench.grid.spec import read_grid
from ltbench.registry import METHODS

REPRODUCE = sorted((Path(__file__).parents[2] / "results" / "reproduce").glob("*.yaml"))


def grid(tmp_path, text="", **flags):
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    return read_grid(file, flags)


def summary(spec):
    return [(one.dataset, one.protocol, one.method, one.settings) for one in spec.requests()]


def test_flags_alone():
    spec = read_grid(None, {"methods": "ce, ecl@authors", "datasets": "digits_lt", "seeds": "0-2"})
    assert spec.seeds == (0, 1, 2)
    assert summary(spec) == [
        ("digits_lt", None, "ce", {}),
        ("digits_lt", None, "ecl@authors", {}),
    ]


def test_five_seeds_unless_given():
    assert read_grid(None, {"methods": "ce", "datasets": "digits_lt"}).seeds == (0, 1, 2, 3, 4)


def test_all_methods():
    spec = read_grid(None, {"methods": "all", "datasets": "digits_lt"})
    assert [one.method for one in spec.requests()] == METHODS.names()


def test_every_axis(tmp_path):
    spec = grid(
        tmp_path,
        "methods: [ce, focal]\ndatasets: [digits_lt]\nprotocols: a,b\nseeds: 3\n"
        "settings: {epochs: 5, optimizer: {lr: 0.2}}\n"
        "vary: {dataset.imbalance: [10, 50]}\n"
        "overrides:\n"
        "- {methods: focal, protocols: [b], settings: {method.gamma: 1}}\n"
        "- {methods: [ce], settings: {optimizer.lr: 0.3}}\n",
    )
    assert spec.seeds == (3,)
    rows = summary(spec)
    assert len(rows) == 8
    base = {"epochs": 5, "optimizer.lr": 0.2}
    assert rows[0] == (
        "digits_lt", "a", "ce", base | {"optimizer.lr": 0.3, "dataset.imbalance": 10}
    )  # fmt: skip
    assert rows[1] == ("digits_lt", "a", "focal", base | {"dataset.imbalance": 10})
    assert rows[7][3] == base | {"dataset.imbalance": 50, "method.gamma": 1}


def test_flags_win_over_the_file(tmp_path):
    spec = grid(
        tmp_path,
        "methods: ce\ndatasets: digits_lt\nseeds: 0-4\nsettings: {epochs: 5}\n"
        "vary: {dataset: {imbalance: [10, 50]}}\noverrides: [{settings: {epochs: 7}}]\n",
        seeds="1",
        methods="focal",
        settings={"epochs": 2, "dataset.imbalance": 20},
        recipe=None,
    )
    assert spec.seeds == (1,)
    assert summary(spec) == [("digits_lt", None, "focal", {"epochs": 2, "dataset.imbalance": 20})]


def test_an_override_of_a_method_holds_for_its_presets(tmp_path):
    spec = grid(
        tmp_path,
        "methods: [ecl@authors, ECL@full]\ndatasets: d\n"
        "overrides: [{methods: ecl, settings: {a: 1}}, {methods: ecl@authors, settings: {b: 2}}]",
    )
    assert [one.settings for one in spec.requests()] == [{"a": 1, "b": 2}, {}]


def test_twice_the_same_is_once(tmp_path):
    assert len(grid(tmp_path, "methods: [ce, ce]\ndatasets: [d, d]").requests()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("datasets: d", "methods is missing: give --methods"),
        ("methods: ce\ndatasets: d\nsedes: 1", "sedes is no part of a grid"),
        ("methods: ce\ndatasets: d\nseeds: 0-x", "takes 0-4 or 0,2,5"),
        ("methods: ce\ndatasets: d\nseeds: [-1]", "greater than or equal to 0"),
        ("methods: ce\ndatasets: d\nseeds: []", "at least 1 item"),
        ("methods: ''\ndatasets: d", "got none"),
        ("methods: ce\ndatasets: d\nvary: {epochs: []}", "at least 1 item"),
        ("methods: ce\ndatasets: d\nvary: {epochs: 3}", "valid tuple"),
        ("methods: ce\ndatasets: d\noverrides: [{sets: {}}]", "overrides.0.settings is missing"),
        ("- ce", "holds a list"),
        ("methods: ce\ndatasets: d\nsettings: [a]", "settings: Input should be a valid dict"),
        ("methods: ce\ndatasets: d\noverrides: {a: 1}", "overrides: Input should be a valid tuple"),
        ("methods: ce\ndatasets: d\nsettings: {seed: 3}", "seed is no setting of a grid"),
        ("methods: ce\ndatasets: d\nvary: {seed: [3, 4]}", "seed is no setting of a grid"),
    ],
)
def test_mistakes_are_named(text, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        grid(tmp_path, text)


def test_all_mistakes_at_once(tmp_path):
    with pytest.raises(UsageError, match=r"3 problems in the grid in .*grid\.yaml"):
        grid(tmp_path, "sedes: 1")


def test_a_folder_of_tuned_settings(tmp_path):
    file = tmp_path / "tuned" / "digits_lt" / "held_out" / "logit_adjust@paper.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("method: {tau: 1.5}\n")
    flags = {"datasets": "digits_lt", "tuned": tmp_path / "tuned"}
    (one,) = read_grid(None, {**flags, "methods": "logit-adjust@paper"}).requests()
    assert resolve(one).method.tau == 1.5
    (other,) = read_grid(None, {**flags, "methods": "ce"}).requests()
    with pytest.raises(UsageError, match=r"No tuned settings of ce on digits_lt"):
        resolve(other)
    (one,) = read_grid(None, {**flags, "methods": "logit_adjust", "tuned": file}).requests()
    assert resolve(one).method.tau == 1.5


@pytest.mark.parametrize("file", REPRODUCE, ids=lambda file: file.stem)
def test_our_own_grids_are_grids(file):
    requests = read_grid(file, {}).requests()
    assert requests
    for request in requests:
        resolve(request)


def test_an_override_finds_the_default_protocol(tmp_path):
    text = "methods: ce\ndatasets: digits_lt\noverrides: [{protocols: held-out, settings: {a: 1}}]"
    assert [one.settings for one in grid(tmp_path, text).requests()] == [{"a": 1}]


@pytest.mark.parametrize("filters", ["methods: foccal", "datasets: nodata", "protocols: [other]"])
def test_an_override_that_fits_nothing_is_refused(filters, tmp_path):
    text = f"methods: ce\ndatasets: digits_lt\noverrides: [{{{filters}, settings: {{a: 1}}}}]"
    with pytest.raises(UsageError, match=r"overrides\.0 .* fits no cell"):
        grid(tmp_path, text).requests()
