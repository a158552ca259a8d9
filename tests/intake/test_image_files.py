import os

import pytest

from ltbench.errors import DataMissingError, VerificationError
from ltbench.intake.image_files import SUFFIXES, find_images


def test_images_others_and_what_is_hidden(images):
    root = images(
        "a.JPG", "b.txt", ".hidden.jpg", ".git/c.jpg", "__MACOSX/d.jpg", "x/y/e.Tif", "f", "x/g.gif"
    )  # fmt: skip
    finder = find_images(root)
    assert finder.files == ("a.JPG", "x/y/e.Tif")
    assert finder.others == ("b.txt", "f", "x/g.gif")
    assert finder.folders == ("x", "x/y")


@pytest.mark.parametrize("suffix", [*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES)])
def test_every_suffix_with_and_without_it(images, suffix):
    finder = find_images(images(f"s/a{suffix}"))
    for name in ("a", "s/a", f"a{suffix}", f"s/a{suffix.swapcase()}", f"a{suffix.swapcase()}"):
        assert finder.candidates(name) == (f"s/a{suffix}",)


def test_paths_are_taken_as_they_are(images):
    root = images("s/a.jpg", "t/a.jpg", "b.jpg", "t/b.jpg")
    finder = find_images(root)
    assert finder.find("t/a.jpg") == finder.find(f"{root}/t/a.jpg") == root / "t/a.jpg"
    assert finder.candidates("./t//a") == finder.candidates("t\\a.jpg") == ("t/a.jpg",)
    assert finder.candidates("b.jpg") == ("b.jpg",)
    for name in ("u/a.jpg", "../images/t/a.jpg", "/t/a.jpg", "a.png", "A.jpg", "", "t"):
        assert finder.candidates(name) == ()


def test_a_relative_root_takes_absolute_paths(images, monkeypatch):
    root = images("s/a.jpg")
    monkeypatch.chdir(root.parent)
    finder = find_images(type(root)("images"))
    assert finder.candidates(str(root / "s/a.jpg")) == ("s/a.jpg",)


def test_none_or_several(images):
    finder = find_images(images("s/a.jpg", "t/a.png"))
    with pytest.raises(VerificationError, match=r"'a', found s/a\.jpg, t/a\.png"):
        finder.find("a")
    with pytest.raises(DataMissingError, match=r"'b', found none: looked through the 2 images"):
        finder.find("b")


def test_links_are_followed_but_not_in_circles(images, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.jpg").touch()
    root = images("s/a.jpg")
    os.symlink(elsewhere, root / "one")
    os.symlink(elsewhere, root / "two")
    (root / "s" / "t").mkdir()
    os.symlink(root, root / "s" / "up")
    os.symlink(root / "s", root / "s" / "t" / "up")
    os.symlink(tmp_path / "gone.jpg", root / "broken.jpg")
    assert find_images(root).files == ("broken.jpg", "one/b.jpg", "s/a.jpg", "two/b.jpg")
