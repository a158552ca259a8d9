import pytest

from ltbench.errors import DataMissingError, VerificationError
from ltbench.intake.label_maps import label_map

THEIRS = ("AK", "SCC", "NV", "UNK")
OURS = ("nv", "akiec", "mel")
WHOLE = "theirs,ours\nAK,akiec\nSCC,akiec\nUNK,\nNV,nv\n"


def refusal(path):
    with pytest.raises(VerificationError) as caught:
        label_map(path, THEIRS, OURS)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", [WHOLE, "ours;theirs\r\nakiec;AK\r\nakiec;SCC\r\n;UNK\r\nnv;NV"])
def test_a_whole_map(write, text):
    found = label_map(write("m.csv", text), THEIRS, OURS)
    assert list(found.items()) == [("AK", "akiec"), ("SCC", "akiec"), ("NV", "nv"), ("UNK", None)]


@pytest.mark.parametrize(
    "text", ["AK,akiec\nSCC,akiec\n", "theirs\nAK\n", "theirs,ours,x\na,b,c\n"]
)
def test_another_header(write, text):
    message = refusal(write("m.csv", text))
    assert "expected the header theirs,ours and below it one row for each class" in message
    assert f"found the header {text.splitlines()[0]}" in message


def test_all_problems_at_once(write):
    message = refusal(write("m.csv", "theirs,ours\nAK,akeic\nSSC,akiec\nAK,mel\n,nv\nNV,x\n"))
    for words in (
        "row 2 (Unknown class 'akeic'. Did you mean 'akiec'?), row 6 (Unknown class 'x'.)",
        "row 3 (Unknown class 'SSC'. Did you mean 'SCC'?)",
        "rows 2 and 4 ('AK')",
        "nothing in row 5. ",
        "no 'SCC', no 'UNK'. ",
    ):
        assert words in message


def test_no_file(tmp_path):
    with pytest.raises(DataMissingError):
        label_map(tmp_path / "m.csv", THEIRS, OURS)
