"""Sites of made runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from site_runs import make_runs

from ltbench.site.choices import Selection
from ltbench.site.making import SiteOptions, make_site


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make_runs(root)
    return root


@pytest.fixture
def site(tmp_path):
    """site(root, figures=True, ...): (the folder of a new site, what was made)."""

    def make(*roots, out=None, methods=None, datasets=None, protocol=None, boards=(), **chosen):
        folder = out or tmp_path / "site"
        selection = Selection(
            roots=tuple(roots),
            boards=tuple(boards),
            methods=methods,
            datasets=datasets,
            protocol=protocol,
        )
        options = SiteOptions(**{"figures": False, "jobs": 1, "tuned": None, **chosen})
        return folder, make_site(selection, folder, options)

    return make


@pytest.fixture(scope="session")
def whole(made_once, tmp_path_factory):
    """A site of all made runs, not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "site"
    make_site(Selection(roots=(made_once,)), folder, SiteOptions(figures=False, jobs=1, tuned=None))
    return folder
