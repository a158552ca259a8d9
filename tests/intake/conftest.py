"""Small files and folders of images, made for a test."""

import pytest


@pytest.fixture
def write(tmp_path):
    """write("a.csv", "text or bytes"): the file's path."""

    def make(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return make


@pytest.fixture
def images(tmp_path):
    """images("a.jpg", "sub/b.png"): a folder with these files."""

    def make(*names):
        root = tmp_path / "images"
        root.mkdir(exist_ok=True)
        for name in names:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return root

    return make
