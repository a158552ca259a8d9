"""A small ISIC 2019 in the official layout, drawn by this script, with its own manifest.

    python tests/small_isic.py FOLDER            writes FOLDER/server and FOLDER/manifest.yaml
    python -m http.server --directory FOLDER/server --bind 127.0.0.1 8019

The pictures are synthetic: blots of a colour and size by class on skin. Nothing measured on them
says anything about lesions.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
COUNTS = {"MEL": 24, "NV": 60, "BCC": 20, "AK": 12, "BKL": 14, "DF": 10, "VASC": 10, "SCC": 10}
TEST_COUNTS = {**dict.fromkeys(CLASSES, 2), "UNK": 3}
ECL_ORDER = ("AK", "BCC", "BKL", "DF", "MEL", "NV", "SCC", "VASC")
COLOURS = {
    **{"MEL": (50, 30, 30), "NV": (120, 75, 50), "BCC": (200, 110, 120), "AK": (190, 140, 100)},
    **{"BKL": (90, 80, 70), "DF": (160, 90, 70), "VASC": (150, 20, 40), "SCC": (210, 160, 150)},
    "UNK": (100, 100, 160),
}
_SHAPES = {"HAM": (150, 112), "BCN": (128, 128), "MSK4": (160, 90), "": (140, 105)}


def rows() -> list[dict[str, str]]:
    """Training images: name, class, lesion ("" for some), in the order of their names."""
    found = []
    for c, (class_name, count) in enumerate(COUNTS.items()):
        for i in range(count):
            source = ("HAM", "BCN", "MSK4" if class_name in ("NV", "MEL", "BKL") else "BCN")[i % 3]
            lesion = f"{source}_{c:02d}{i // 2:05d}"
            if i % 11 == 10:
                source = lesion = ""
            name = f"ISIC_{1000 * c + i:07d}" + ("_downsampled" if source == "MSK4" else "")
            found.append({"image": name, "class": class_name, "lesion": lesion, "source": source})
    return sorted(found, key=lambda row: row["image"])


def official_test_rows() -> list[dict[str, str]]:
    """Official test images; those of class UNK cannot be scored."""
    names = [name for name, count in TEST_COUNTS.items() for _ in range(count)]
    return [
        {"image": f"ISIC_{90_000 + i:07d}", "class": class_name, "source": "BCN"}
        for i, class_name in enumerate(names)
    ]


def jpeg(row: dict[str, str]) -> bytes:
    """One drawn picture, the same on every call."""
    rng = np.random.default_rng(list(hashlib.sha256(row["image"].encode()).digest()))
    width, height = _SHAPES[row["source"]]
    skin = rng.normal((215, 175, 150), 8, (height, width, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(skin)
    x, y = rng.uniform(0.4, 0.6, 2) * (width, height)
    half = rng.uniform(0.15, 0.35) * height
    box = (x - half, y - half * rng.uniform(0.7, 1), x + half, y + half)
    ImageDraw.Draw(picture).ellipse(box, fill=COLOURS[row["class"]])
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def table(header: Sequence[str], lines: Iterable[Sequence[str]], end: str = "\r\n") -> bytes:
    """A CSV as the challenge hands them out: CRLF, no quotes."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=end)
    writer.writerow(header)
    writer.writerows(lines)
    return buffer.getvalue().encode()


def ground_truth(found: Sequence[dict[str, str]]) -> bytes:
    """One column a class, UNK the last."""
    columns = (*CLASSES, "UNK")
    lines = [[r["image"], *("1.0" if r["class"] == c else "0.0" for c in columns)] for r in found]
    return table(("image", *columns), lines)


def archive(folder: str, found: Sequence[dict[str, str]]) -> bytes:
    """A zip with one top folder, as the challenge hands them out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr(f"{folder}/ATTRIBUTION.txt", "drawn by tests/small_isic.py")
        packed.writestr(f"{folder}/LICENSE.txt", "none needed")
        for row in found:
            packed.writestr(f"{folder}/{row['image']}.jpg", jpeg(row))
    return buffer.getvalue()


def ecl_lists(found: Sequence[dict[str, str]]) -> dict[str, bytes]:
    """Lists made as ECL's authors made theirs: by class, position mod 5, lesions disregarded."""
    lines: dict[str, list[tuple[str, str, str]]] = {"train": [], "val": [], "test": []}
    for class_name in ECL_ORDER:
        images = [row["image"] for row in found if row["class"] == class_name]
        for i, image in enumerate(images):
            part = {0: "test", 1: "val"}.get(i % 5, "train")
            lines[part].append((image, class_name, str(ECL_ORDER.index(class_name))))
    return {
        f"ecl_splits/ISIC2019_{part}.csv": table(("image", "category", "label"), rows, "\n")
        for part, rows in lines.items()
    }


def server_files() -> dict[str, bytes]:
    """Everything that is downloaded, by name."""
    training, test = rows(), official_test_rows()
    facts = [
        (
            r["image"],
            str(20 + 5 * (i % 12)) if i % 7 else "",
            ("anterior torso", "head/neck", "")[i % 3],
            r["lesion"],
            ("male", "female")[i % 2],
        )
        for i, r in enumerate(training)
    ]
    test_facts = [(r["image"], "45", "head/neck", "female") for r in test]
    return {
        "ISIC_2019_Training_GroundTruth.csv": ground_truth(training),
        "ISIC_2019_Training_Metadata.csv": table(
            ("image", "age_approx", "anatom_site_general", "lesion_id", "sex"), facts
        ),
        "ISIC_2019_Training_Input.zip": archive("ISIC_2019_Training_Input", training),
        "ISIC_2019_Test_GroundTruth.csv": ground_truth(test),
        "ISIC_2019_Test_Metadata.csv": table(
            ("image", "age_approx", "anatom_site_general", "sex"), test_facts
        ),
        "ISIC_2019_Test_Input.zip": archive("ISIC_2019_Test_Input", test),
        **ecl_lists(training),
    }


def manifest(files: dict[str, bytes]) -> dict[str, object]:
    """Sizes, digests and counts of `files`, as `dataset.manifest` takes them."""
    entries = []
    for name, content in files.items():
        entry: dict[str, object] = {
            "name": name,
            "urls": [f"http://127.0.0.1:8019/{name}"],
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        if name.endswith(".zip"):
            pictures = rows() if "Training" in name else official_test_rows()
            entry |= {"unpacks_to": name[:-4], "num_files": {".jpg": len(pictures)}}
        entries.append(entry)
    return {"files": entries, "counts": COUNTS}


def write(folder: Path) -> Path:
    """Write server and manifest below `folder`; returns the manifest."""
    files = server_files()
    for name, content in files.items():
        path = folder / "server" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(manifest(files), sort_keys=False), encoding="utf-8")
    return path


if __name__ == "__main__":
    print(f"Wrote {write(Path(sys.argv[1]))}")
