"""Bundles that must not come onto a board; each refusal says what was expected and what came."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import stat
import warnings
import zipfile

import numpy as np
import pytest

from ltbench.bundles import members as container
from ltbench.bundles.members import MANIFEST
from ltbench.bundles.work import add
from ltbench.errors import VerificationError


def refused(path, board):
    before = sorted(file.relative_to(board) for file in board.rglob("*"))
    with pytest.raises(VerificationError) as error:
        add(path, board=board)
    assert sorted(file.relative_to(board) for file in board.rglob("*")) == before
    assert error.value.exit_code == 4
    assert str(path) in str(error.value)
    return str(error.value)


def test_the_good_one_is_accepted(good, board):
    added = add(good, board=board)
    assert added.row["level"] == "re-scored"
    assert len(list((board / "rows").glob("*.json"))) == 2


def rename_first(arrays):
    arrays["test/ids"][0] = "toy-9999"


def leave_out_first(arrays):
    for field in ("ids", "targets", "logits"):
        arrays[f"test/{field}"] = arrays[f"test/{field}"][1:]


def image_twice(arrays):
    arrays["test/ids"][1] = arrays["test/ids"][0]


def alter_target(arrays):
    wrong = np.flatnonzero(arrays["test/logits"].argmax(axis=1) != arrays["test/targets"])
    at = wrong[0] if len(wrong) else 0
    arrays["test/targets"][at] = (arrays["test/targets"][at] + 1) % 4


def validation_as_test(arrays):
    for field in ("ids", "targets", "logits"):
        arrays[f"test/{field}"] = arrays[f"val/{field}"]


def swap_classes(arrays):
    for part in ("val", "test"):
        arrays[f"{part}/class_names"] = arrays[f"{part}/class_names"][[1, 0, 2, 3]]


def other_classes(arrays):
    for part in ("val", "test"):
        arrays[f"{part}/class_names"][3] = "spot"


def invent_groups(arrays):
    arrays["test/groups"] = np.array([f"g{i}" for i in range(len(arrays["test/ids"]))])


CONTENT = {
    "foreign id": (rename_first, "1 images are not of this part: toy-9999"),
    "missing id": (leave_out_first, "1 of 24 images are missing"),
    "image twice": (image_twice, "expected each image once; 1 stand twice"),
    "altered target": (alter_target, "1 targets are not the data set's"),
    "validation as test": (validation_as_test, "24 images are not of this part"),
    "swapped classes": (swap_classes, "the classes stand in another order"),
    "other classes": (other_classes, "expected the classes blob 0, blob 1, blob 2, blob 3, came"),
    "invented groups": (invent_groups, "expected groups to be not known, in the bundle they are"),
}


@pytest.mark.parametrize(("change", "message"), CONTENT.values(), ids=CONTENT)
def test_other_images_than_the_split_has(change, message, forger, board):
    """Record and manifest fit the forged predictions: nothing but the split betrays them."""
    path = forger.arrays(change).record_fits().write()
    assert message in refused(path, board)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(value, forger, board):
    def spoil(arrays):
        arrays["test/logits"][3, 1] = value

    path = forger.arrays(spoil).record_fits(metrics=False).write()
    assert "NaN or infinite logits of 1 images: toy-" in refused(path, board)


@pytest.mark.parametrize("off", [2e-9, -2e-9, 0.05])
def test_an_inflated_metric(off, forger, board):
    def inflate(record):
        record["metrics"]["test"]["macro_f1"] += off

    message = refused(forger.json("seed-0/record.json", inflate).write(), board)
    assert "test: macro_f1: claimed" in message
    assert "its predictions give" in message


def test_a_claim_within_rounding_is_accepted(forger, board):
    def round_off(record):
        record["metrics"]["test"]["macro_f1"] += 5e-10

    added = add(forger.json("seed-0/record.json", round_off).write(), board=board)
    claimed = json.loads(forger.members["seed-0/record.json"])["metrics"]["test"]["macro_f1"]
    assert added.row["test"]["macro_f1"]["by_seed"]["0"] == pytest.approx(
        claimed - 5e-10, abs=1e-15
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda metrics: metrics["per_class"]["f1"].__setitem__(0, 1.5),
        lambda metrics: metrics["confusion"][0].__setitem__(0, 99),
        lambda metrics: metrics["groups"]["tail"].__setitem__("sensitivity", 1.5),
        lambda metrics: metrics.__setitem__("num_images", 2400),
        lambda metrics: metrics.__setitem__("reader_study_agreement", 0.99),
        lambda metrics: metrics.__setitem__("nll", None),
    ],
)
def test_every_claimed_number_counts(change, forger, board):
    forged = forger.json("seed-1/record.json", lambda record: change(record["metrics"]["test"]))
    assert "seed 1, test: " in refused(forged.write(), board)


def test_predictions_that_are_not_those_of_the_record(forger, board):
    def touch(arrays):
        arrays["test/logits"][0] += 1e-3  # the same classes, hardly another metric

    assert "the record says digest" in refused(forger.arrays(touch).write(), board)


def test_a_wrong_split_digest(forger, board):
    other = "0" * 64

    def another_split(record):
        record["split_digest"] = other
        record["key_parts"]["split_digest"] = other
        record["key"] = key_of(record)

    for seed in (0, 1):
        forger.json(f"seed-{seed}/record.json", another_split)
    key = json.loads(forger.members["seed-0/record.json"])["key"]
    message = refused(forger.write(split_digest=other, key=key), board)
    assert "split digest: expected" in message
    assert "came '0000" in message


def key_of(record):
    from ltbench.files import canonical_json, sha256_hex

    return sha256_hex(canonical_json(record["key_parts"]).encode())[:16]


def test_a_leak_that_is_talked_away(forger, board):
    for seed in (0, 1):
        forger.json(
            f"seed-{seed}/record.json", lambda record: record["protocol_notes"].update(clean=True)
        )
    assert "protocol notes: expected" in refused(forger.write(), board)


def test_a_key_that_its_parts_do_not_give(forger, board):
    def retouch(record):
        record["key_parts"]["threads"] = 7

    for seed in (0, 1):
        forger.json(f"seed-{seed}/record.json", retouch)
    assert "but its key parts give" in refused(forger.write(), board)


def test_a_configuration_that_is_not_the_keys(forger, board):
    forged = forger.json("seed-0/config.json", lambda config: config.update(epochs=300))
    assert "epochs: the key says 2, config.json 300" in refused(forged.write(), board)


def test_another_methods_name_on_the_row(forger, board):
    for seed in (0, 1):
        forger.json(f"seed-{seed}/record.json", lambda record: record.update(label="ecl"))
    assert "it is labelled 'ecl', but its configuration is of ce" in refused(
        forger.write(label="ecl"), board
    )


def test_feedback_that_the_method_does_not_declare(forger, board):
    """Tables mark rows that train on validation feedback by the record's word alone."""
    for seed in (0, 1):
        forger.json(
            f"seed-{seed}/record.json",
            lambda record: record.update(uses_validation=True, feedback_split="validation"),
        )
    message = refused(forger.write(), board)
    assert "uses_validation: the record says True, its method declares False" in message


def test_one_run_as_two_seeds(forger, board):
    for name in ("predictions.npz", "record.json", "config.json"):
        forger.members[f"seed-1/{name}"] = forger.members[f"seed-0/{name}"]
    assert "the record in seed-1/ says it is of seed 0" in refused(forger.write(), board)
    for name in ("record.json", "config.json"):
        forger.json(f"seed-1/{name}", lambda told: told.update(seed=1))
    assert "have the same test predictions" in refused(forger.write(), board)


def test_a_seed_twice_in_the_manifest(forger, board):
    assert "expected each seed once" in refused(forger.write(seeds=[0, 1, 1]), board)


def test_another_schema(forger, board):
    message = refused(forger.write(schema_version=2), board)
    assert "expected schema version 1, it has 2" in message
    forger.json("seed-0/record.json", lambda record: record.update(schema_version=0))
    assert "expected a record of schema version 1, came 0" in refused(forger.write(), board)


def test_a_member_that_was_changed_afterwards(forger, board):
    path = forger.write()
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    held["seed-0/record.json"] = held["seed-0/record.json"].replace(b"toy_blobs", b"toy_blobz")
    path.write_bytes(container.zip_bytes(held))
    message = refused(path, board)
    assert "the manifest says SHA-256" in message
    assert "seed-0/record.json" in message


def test_other_source_than_the_key_says(forger, board):
    forger.members["plugin/ce.py"] += b"\n# harmless\n"
    assert "the method's source: its key says" in refused(forger.write(), board)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py", "/etc/evil", "a/../../evil", "..\\evil", "C:/evil", "seed-0/./x",
        ".hidden", "plugin/.x", "a//b", "a b", "x" * 300, "ä.py",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere(name, raw_zip, board):
    message = refused(raw_zip([(zipfile.ZipInfo(name), b"x")]), board)
    assert "no name that is safe" in message


def test_links_folders_doubles_and_strangers_in_a_zip(raw_zip, board):
    link = zipfile.ZipInfo("plugin/link.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "is a link or a device" in refused(raw_zip([(link, b"/etc/passwd")]), board)
    assert "is a folder" in refused(raw_zip([("plugin/sub/", b"")]), board)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = raw_zip([(MANIFEST, b"{}")])
    assert "stands twice" in refused(path, board)
    assert "its manifest does not name: readme.txt" in refused(
        raw_zip([("readme.txt", b"")]), board
    )


def test_links_and_strangers_in_a_folder(good_members, tmp_path, board):
    folder = tmp_path / "bundle"
    container.write_members(folder, good_members)
    (folder / "seed-0" / "more.json").write_text("{}")
    assert "its manifest does not name" in refused(folder, board)
    (folder / "seed-0" / "more.json").unlink()
    os.symlink("/etc/passwd", folder / "passwd")
    assert "is a link or a device" in refused(folder, board)
    (folder / "passwd").unlink()
    assert add(folder, board=board).row["seeds"] == [0, 1]


class Bomb:
    """Python runs this when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["BOMB"],))


def npy(array, allow_pickle=False):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def with_npz(forger, entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    forger.members["seed-0/predictions.npz"] = buffer.getvalue()
    return forger.write()


def test_a_pickle_in_the_predictions(forger, board, tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    pickled = npy(np.array([Bomb()], dtype=object), allow_pickle=True)
    message = refused(with_npz(forger, {"test/ids.npy": pickled}), board)
    assert "an array of Python objects" in message
    bare = pickle.dumps(Bomb())
    assert "came" in refused(with_npz(forger, {"test/ids.npy": bare}), board)
    forger.members["seed-0/predictions.npz"] = bare
    assert "expected arrays of numbers and text" in refused(forger.write(), board)
    assert not (tmp_path / "exploded").exists()


def lying_header(shape, descr="<f4", data=bytes(16)):
    """An array whose header asks for more memory than there is."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue() + data


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"test/logits.npy": lying_header((10**12, 4))}, "a header that says"),
        ({"test/logits.npy": lying_header((True, 4))}, "a header that says"),
        ({"test/class_names.npy": lying_header((10**12,), "<U0", b"")}, "names of no letters"),
        ({"test/logits.npy": npy(np.zeros((2, 2, 2)))}, "with 3 dimensions"),
        ({"test/ids.npy": npy(np.array([b"x"]))}, "an array of |S1"),
        ({"test/more.npy": npy(np.zeros(2))}, "does not belong there"),
        ({"../evil.npy": npy(np.zeros(2))}, "does not belong there"),
        ({"test/ids.npy": npy(np.array(["a"]))}, "expected the array 'class_names', found none"),
        ({"test/ids.npy": b""}, "expected arrays"),
    ],
)
def test_arrays_that_are_not_what_they_say(entries, message, forger, board):
    assert message in refused(with_npz(forger, entries), board)


def test_arrays_that_do_not_fit(forger, board):
    def shorten(arrays):
        arrays["test/targets"] = arrays["test/targets"][1:]

    message = refused(forger.arrays(shorten).write(), board)
    assert "expected targets of shape (24,)" in message


def test_a_part_that_the_split_has_and_the_bundle_has_not(forger, board):
    def drop(arrays):
        for name in [name for name in arrays if name.startswith("val/")]:
            del arrays[name]

    assert "val: the split has such a part, came predictions of none" in refused(
        forger.arrays(drop).write(), board
    )


def test_more_bytes_than_are_read(raw_zip, board, monkeypatch):
    monkeypatch.setattr(container, "MAX_MEMBER_BYTES", 30_000)
    monkeypatch.setattr("ltbench.bundles.arrays.MAX_MEMBER_BYTES", 30_000)
    assert "at most 30000 are read" in refused(raw_zip([("bomb", bytes(10**6))]), board)
    monkeypatch.setattr(container, "MAX_BYTES", 20_000)
    assert "bytes in all; at most 20000" in refused(raw_zip([]), board)
    monkeypatch.setattr(container, "MAX_MEMBERS", 3)
    assert "at most 3 are read" in refused(raw_zip([]), board)


def test_arrays_that_unpack_to_more_than_is_read(forger, board, monkeypatch):
    monkeypatch.setattr("ltbench.bundles.arrays.MAX_MEMBER_BYTES", 10**5)
    zeros = npy(np.zeros((10**5, 1), dtype=np.float32))
    assert "arrays of" in refused(with_npz(forger, {"test/logits.npy": zeros}), board)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected a JSON object"),
        (b"[1]", "found '[1]'"),
        (b'{"seed": NaN}', "NaN is not a JSON number"),
        (b'{"seed": 0, "seed": 1}', "the key 'seed' stands twice"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\xff\xfe", "expected a JSON object"),
        (b"{}", "the record lacks"),
    ],
)
def test_records_that_are_no_records(text, message, forger, board):
    forger.members["seed-0/record.json"] = text
    found = refused(forger.write(), board)
    assert message in found or "schema version 1, came None" in found


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" + b"0" * 400])
@pytest.mark.parametrize("where", [b'"key_parts": {', b'"test": {', b'"ledger": {'])
def test_numbers_that_nothing_can_hold(where, number, forger, board):
    name = "seed-0/record.json"
    forger.members[name] = forger.members[name].replace(where, where + b'"more": ' + number + b",")
    assert "is larger than any number" in refused(forger.write(), board)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("metrics", [], "metrics is []; expected dict"),
        ("seed", False, "seed is False; expected int"),
        ("uses_validation", 0, "uses_validation is 0; expected bool"),
        ("digests", {}, "says digest None"),
        ("overlaps", [{"kind": "pixels"}], "its records cannot be shown in a table"),
    ],
)
def test_records_of_another_shape(name, value, message, forger, board):
    for seed in (0, 1):
        forger.json(f"seed-{seed}/record.json", lambda record: record.update({name: value}))
    assert message in refused(forger.write(), board)


@pytest.mark.parametrize(
    "words",
    [
        "<img src=x onerror=alert(1)> | 100 | `x`",
        "(official, re-run)",
        "epochs=2 (re-run)",
        "epochs=3",
        "weights=none\r| best |",
        "\r",
        "\u202egnp",
        "\u200b",
        "\u0435cl",
    ],
)
def test_a_label_says_the_row_and_nothing_else(words, forger, board):
    """Line breaks and marks of direction too, which would make the table another one."""
    label = f"ce {words}"
    for seed in (0, 1):
        forger.json(f"seed-{seed}/record.json", lambda record: record.update(label=label))
    assert "but its configuration has no setting" in refused(forger.write(label=label), board)


def test_a_setting_cannot_write_into_the_page(forger, board):
    """Names of files are the maker's own words."""
    label = "ce weights=<script>alert(1)</script> | 100 | `x`"

    def change(record):
        record["label"] = label
        record["key_parts"]["config"]["weights"] = "file"
        record["key"] = key_of(record)

    for seed in (0, 1):
        forger.json(f"seed-{seed}/record.json", change)
    key = json.loads(forger.members["seed-0/record.json"])["key"]
    add(forger.write(label=label, key=key), board=board)
    text = (board / "README.md").read_text()
    assert "<script" not in text
    assert "&lt;script" in text
    assert "| 100 |" not in text


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 rubbish", b"x" * 100])
def test_files_that_are_no_bundles(data, tmp_path, board):
    path = tmp_path / "rubbish.zip"
    path.write_bytes(data)
    assert "is no bundle: expected a zip file or a folder" in refused(path, board)


def test_a_truncated_bundle(good, board):
    good.write_bytes(good.read_bytes()[:-100])
    assert "is no bundle" in refused(good, board)


def test_a_damaged_bundle(good, board):
    data = bytearray(good.read_bytes())
    at = data.index(b"seed-0/predictions.npz") + 400
    data[at] ^= 0xFF
    good.write_bytes(bytes(data))
    assert "damaged" in refused(good, board)


def scrambled(data, rnd):
    """Bytes with some of them flipped, left out or put in."""
    changed = bytearray(data)
    for _ in range(rnd.choice([1, 1, 3, 20])):
        at = rnd.randrange(len(changed))
        kind = rnd.randrange(3)
        if kind == 0:
            changed[at] = rnd.choice(b"0123456789[]{},:'\"<U-\xff\x00")
        elif kind == 1:
            del changed[at : at + rnd.randrange(1, 8)]
        else:
            changed[at:at] = bytes(rnd.randrange(256) for _ in range(3))
    return bytes(changed)


def first_of(members, name, rnd):
    """A member of arrays, the header of one of them scrambled."""
    with np.load(io.BytesIO(members[name])) as stored:
        arrays = {field: npy(array) for field, array in stored.items()}
    field = rnd.choice(sorted(arrays))
    arrays[field] = scrambled(arrays[field][:128], rnd) + arrays[field][128:]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


@pytest.mark.parametrize("seed", range(8))
def test_damage_of_every_kind_ends_in_a_message(seed, forger, good_members, built_board):
    """Accepted, where it touched nothing that counts, or refused; never a fault of ltbench."""
    rnd = random.Random(seed)
    predictions = "seed-0/predictions.npz"
    for _ in range(5):
        forger.members = dict(good_members)
        name = rnd.choice(["seed-1/record.json", "seed-0/config.json", predictions])
        forger.members[name] = scrambled(forger.members[name], rnd)
        paths = [forger.write()]
        forger.members = {**good_members, predictions: first_of(good_members, predictions, rnd)}
        forger.path = forger.path.with_name("arrays.zip")
        paths.append(forger.write())
        whole = forger.path.with_name("whole.zip")
        whole.write_bytes(scrambled(container.zip_bytes(good_members), rnd))
        for path in (*paths, whole):
            with contextlib.suppress(VerificationError):
                add(path, board=built_board, dry_run=True)


def test_nothing_of_the_plugin_is_run(forger, board, tmp_path):
    """Not even where its source is what the key says."""
    mark = tmp_path / "ran"
    source = forger.members["plugin/ce.py"] + f"\nopen({str(mark)!r}, 'w')\n".encode()
    names = json.loads(forger.members[MANIFEST])["plugin"]["files"]
    forger.members["plugin/ce.py"] = source
    from ltbench.bundles.manifest import sources_digest

    texts = [(file, forger.members[member].decode()) for file, member in names]
    digest = sources_digest(texts)

    def other_source(record):
        record["key_parts"]["method_digest"] = digest
        record["key"] = key_of(record)

    for seed in (0, 1):
        forger.json(f"seed-{seed}/record.json", other_source)
    key = json.loads(forger.members["seed-0/record.json"])["key"]
    plugin = {**json.loads(forger.members[MANIFEST])["plugin"], "digest": digest}
    added = add(forger.write(plugin=plugin, key=key), board=board)
    assert added.row["level"] == "re-scored"
    assert not mark.exists()
