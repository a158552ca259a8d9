import pytest

from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.intake.csv_files import read_rows


def refusal(path, **settings):
    with pytest.raises(VerificationError) as caught:
        read_rows(path, **settings)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_dialects_give_the_same_cells(write, end, delimiter, mark):
    lines = [["image", " label "], ["é1", "mel"], ["", ""], ['"b 2"', " nv"], []]
    path = write("a.csv", mark + end.join(delimiter.join(line) for line in lines))
    rows = read_rows(path)
    assert rows.columns == ("image", "label")
    assert rows.cells == {"image": ["é1", "b 2"], "label": ["mel", "nv"]}
    assert rows.numbers == [2, 4]
    assert rows.at(1, "'x'") == "row 4 ('x')"


def test_rows_are_numbered_as_an_editor_shows_them(write):
    path = write("a.csv", '\nimage,text\n\na,"two\nlines; and, ""more"""\nb,x\n')
    rows = read_rows(path)
    assert rows.cells["text"][0] == 'two\nlines; and, "more"'
    assert rows.numbers == [4, 6]


def test_a_quoted_header_hides_its_delimiters(write):
    assert read_rows(write("a.csv", '"a;b",c\n1,2\n')).columns == ("a;b", "c")


def test_unnamed_columns_are_left_out(write):
    rows = read_rows(write("a.csv", ",image,\n0,a,\n1,b,\n"))
    assert rows.columns == ("image",)
    assert rows.cells["image"] == ["a", "b"]


def test_an_unclear_delimiter_is_a_setting(write):
    path = write("a.csv", "image;label,fine\na;b,c\n")
    with pytest.raises(UsageError, match=r"comma and semicolon.*dataset\.delimiter"):
        read_rows(path)
    for delimiter in (";", "semicolon"):
        assert read_rows(path, delimiter=delimiter).columns == ("image", "label,fine")
    with pytest.raises(UsageError, match="as comma, semicolon, tab, got 'pipe'"):
        read_rows(path, delimiter="pipe")


def test_ragged_rows_are_named_at_once(write):
    lines = ["image,label", "a,b", *["a,b,c"] * 11, "a"]
    message = refusal(write("a.csv", "\n".join(lines)))
    assert "Expected 2 fields a row" in message
    assert "row 3 (3)" in message
    assert "row 12 (3) and 2 more" in message
    assert "row 2 " not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"\xef\xbb\xbf \r\n", "an empty file"),
        (b"\x1f\n\xc2\xa0\n", "an empty file"),
        (b",,\n,,\n", "delimiters alone"),
        (b"image,label\n", "rows below the header (image, label)"),
        (b"image,label,image\na,b,c\n", "found twice: image"),
        (b"image,image \na,b\n", "found twice: image"),
        (b"image,label\na,b\nc,caf\xe9\nd,\xff\n", "byte 0xe9 in row 3 (byte 6 of it)"),
        (b"image,label\na,b\nc,caf\xe9\nd,\xff\n", "byte 0xff in row 4"),
        (b"image,label\na,b\nc,\0\n", "NUL bytes; found: row 3"),
        (b"i\0,l\0\n\xff\n", "row 1"),
        (b"\xff\xfei\0m\0", "UTF-16"),
        (b"PK\x03\x04whatever", "zip archive or an Excel workbook"),
        (b"\xd0\xcf\x11\xe0whatever", ".xls"),
        (b"\x1f\x8bwhatever", "gzip"),
        (b"\n <!DOCTYPE html><html>", "an HTML page"),
        (b"<HTML><body>log in</body></HTML>", "an HTML page"),
        (b'{"image": "a"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b'image,label\na,b\nc,"d\ne,f\n', "begins in row 3"),
        (b'image,label\na,"b"c\n', "begins in row 2"),
    ],
)
def test_what_is_no_table_is_refused(write, content, words):
    assert words in refusal(write("a.csv", content))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataMissingError, match=r"none\.csv, found none"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="found a folder"):
        read_rows(tmp_path)
