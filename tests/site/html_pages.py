"""Pages of a site as trees, for tests that look at what a browser would see."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "input", "br", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict
    parent: Element | None = None
    children: list = field(default_factory=list)  # elements and texts

    def all(self, *tags):
        """Elements below, in the order of the document."""
        for child in self.children:
            if isinstance(child, Element):
                if not tags or child.tag in tags:
                    yield child
                yield from child.all(*tags)

    def with_class(self, name):
        return [one for one in self.all() if name in (one.get("class") or "").split()]

    def get(self, name, default=None):
        return self.attributes.get(name, default)

    @property
    def text(self):
        parts = [c if isinstance(c, str) else c.text for c in self.children]
        return "".join(parts)


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = self.here = Element("#document", {})

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        element = Element(tag, dict(attrs), self.here)
        self.here.children.append(element)
        if tag not in VOID:
            self.here = element

    def handle_endtag(self, tag):
        assert self.here.tag == tag, f"<{self.here.tag}> is closed by </{tag}>"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.children.append(data)


def read(file):
    """The tree of a page; its tags must be closed in order."""
    return parsed(Path(file).read_text("utf-8"))


def parsed(text):
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.here is reader.root, f"<{reader.here.tag}> is never closed"
    return reader.root


def table(page, name):
    """The element of a table by its id."""
    return next(one for one in page.all("table") if one.get("id") == name)


def body_rows(found):
    """Rows of a table's bodies, each as its cells."""
    rows = [row for body in found.all("tbody") for row in body.all("tr")]
    return [list(row.all("th", "td")) for row in rows]
