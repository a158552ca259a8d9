"""A trained run's predictions for pictures of one's own, read as training read its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ltbench.data.feed import Part
from ltbench.data.images import pixels_digest
from ltbench.dataset import Fingerprints
from ltbench.errors import DataMissingError, LtbenchError, RunFailedError, UsageError
from ltbench.files import storage_errors, write_text
from ltbench.inference import any_device, predict_part
from ltbench.intake.image_files import SUFFIXES, find_images
from ltbench.results import RunFolder
from ltbench.seen import FILE as SEEN
from ltbench.seen import read_seen
from ltbench.store.contents import StoreSettings
from ltbench.store.dataset import StoredConfig
from ltbench.store.decode import BrokenImageError, decode
from ltbench.store.resize import stored_pictures
from ltbench.trained import Trained, load_trained

__all__ = ["Pictures", "UserPredictions", "predict_pictures"]

_NAMED = 10
COLUMNS: Final = ("image", "predicted_class")
PROBLEM: Final = "problem"


@dataclass
class UserPredictions:
    """What came of a user's pictures.

    Attributes:
        num_predicted: pictures that were read.
        broken: (file, reason) of those that were not.
        left_out: files in folders whose names do not end as those of pictures do.
        num_seen: pictures whose pixels the run was trained or selected on; None where it was made
            before that was kept.
    """

    run: str
    out: Path
    class_names: tuple[str, ...]
    num_predicted: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    num_seen: int | None = 0

    @property
    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        told = [f"{name}: {reason}" for name, reason in self.broken]
        if self.left_out:
            more = ", ..." * (len(self.left_out) > _NAMED)
            told.append(
                f"{len(self.left_out)} files in folders do not end in {', '.join(SUFFIXES)} and "
                f"were left out: {', '.join(self.left_out[:_NAMED])}{more}. A file that is named "
                "itself is read whatever it is called."
            )
        if self.num_seen:
            told.append(
                f"{self.num_seen} of {self.num_predicted} pictures are among those the run was "
                "trained or selected on: what it says of them says nothing of others."
            )
        return told

    def as_facts(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "run": self.run,
            "out": str(self.out),
            "class_names": list(self.class_names),
            "num_predicted": self.num_predicted,
            "num_seen_in_training": self.num_seen,
            "left_out": self.left_out,
            "broken": [{"image": name, "reason": reason} for name, reason in self.broken],
        }

    def refuse_broken(self) -> None:
        """Raise where a picture could not be read.

        Raises:
            RunFailedError: names them; the table has all others.
        """
        if self.broken:
            told = "".join(f"\n  {name}: {reason}" for name, reason in self.broken[:_NAMED])
            more = f"\n  and {len(self.broken) - _NAMED} more" * (len(self.broken) > _NAMED)
            raise RunFailedError(
                f"{len(self.broken)} of {len(self.broken) + self.num_predicted} pictures could not "
                f"be read; {self.out} has the other "
                f"{self.num_predicted}, and names these in the column '{PROBLEM}':{told}{more}\n"
                "Mend them, or give --skip-broken to call that no failure."
            )


def predict_pictures(
    folder: RunFolder, images: Sequence[Path], out: Path, *, device: str = "auto"
) -> UserPredictions:
    """Write a CSV table: image, predicted class, the probability of each class, problem.

    A picture is decoded, turned and resized as a store of the run's data set would have it, and
    rendered by the run's eval views, over which logits are averaged. Probabilities are their
    softmax, computed in float64.

    Args:
        images: files, and folders, in which pictures are looked for at any depth.

    Raises:
        UsageError: no picture, another number of channels, or a size the run was not made for.
        DataMissingError, VerificationError: the run is not whole.
    """
    files, left_out = _files(images)
    on = any_device(device)
    trained = load_trained(folder)
    found = UserPredictions(folder.name, out, trained.class_names, left_out=left_out)
    lines, seen = dict[str, list[str]](), _seen(trained, found)
    size = trained.config.eval_batch_size
    for start in range(0, len(files), size):
        names, pictures = _readable(trained, files[start : start + size], found)
        if not names:
            continue
        if found.num_seen is not None:
            found.num_seen += sum(one in seen for one in pictures.fingerprints().pixels.tolist())
        logits = predict_part(trained, _part(names, pictures, trained), on).logits
        found.num_predicted += len(names)
        for name, row in zip(names, logits, strict=True):
            lines[name] = _line(row, trained.class_names)
    with storage_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, _table([name for name, _ in files], lines, found))
    return found


def _seen(trained: Trained, found: UserPredictions) -> frozenset[str]:
    """Digests of the pixels that the run has seen."""
    try:
        return frozenset(read_seen(trained.folder.path / SEEN).pixels.tolist())
    except DataMissingError:
        found.num_seen = None
        return frozenset()


def _files(images: Sequence[Path]) -> tuple[list[tuple[str, Path]], list[str]]:
    """((name as the table has it, file), each once, in the order given; what was left out)."""
    files, left_out = dict[str, Path](), dict[str, None]()
    for given in images:
        if given.is_dir():
            inside = find_images(given)
            files |= {str(given / name): given / name for name in inside.files}
            left_out |= dict.fromkeys(str(given / name) for name in inside.others)
        elif given.is_file():
            files[str(given)] = given
        else:
            raise DataMissingError(f"Expected a picture or a folder at {given}; nothing is there.")
    if not files:
        raise UsageError(
            f"No picture in {', '.join(map(str, images))}. Expected files that end in "
            f"{', '.join(SUFFIXES)}."
        )
    return list(files.items()), [name for name in left_out if name not in files]


def _readable(
    trained: Trained, files: Sequence[tuple[str, Path]], found: UserPredictions
) -> tuple[list[str], Pictures]:
    """The pictures of a batch that can be read; the others are noted."""
    settings = _settings(trained)
    names, stored, digests = [], [], []
    for name, file in files:
        try:
            pixels = _pixels(trained, name, file)
        except BrokenImageError as error:
            found.broken.append((name, error.reason))
            continue
        except OSError as error:
            found.broken.append((name, f"could not be read ({error.strerror or error})"))
            continue
        names.append(name)
        digests.append(pixels_digest(pixels))
        stored.append([pixels] if settings is None else stored_pictures(pixels, settings))
    return names, Pictures(
        [of[0] for of in stored],
        {
            side: [of[1 + number] for of in stored]
            for number, side in enumerate(() if settings is None else settings.squares)
        },
        np.array(digests, dtype=np.str_),
    )


def _settings(trained: Trained) -> StoreSettings | None:
    """How the run's data set stores pictures; None where its pictures come decoded."""
    config = trained.config.dataset
    if isinstance(config, StoredConfig):
        return StoreSettings(config.short_side, config.squares)
    return None


def _pixels(trained: Trained, name: str, file: Path) -> np.ndarray:
    """One picture with as many channels as the run takes, uint8 (height, width, channels)."""
    decoded = decode(file.read_bytes())
    pixels = decoded.pixels
    channels = trained.record["input"]["shape"][0]
    if channels not in (1, 3):
        raise UsageError(
            f"{trained.folder.name} takes pictures of {channels} channels; files of pictures have "
            "1 or 3."
        )
    if channels == 1:
        grey = pixels[:, :, :1]
        if not (pixels == grey).all():
            raise UsageError(
                f"{name} has colours (3 channels), but {trained.folder.name} takes grey pictures "
                "(1 channel), as it was trained on such. Convert it as the training pictures were."
            )
        pixels = np.ascontiguousarray(grey)
    _check_size(trained, name, pixels)
    return pixels


def _check_size(trained: Trained, name: str, pixels: np.ndarray) -> None:
    """Refuse what would come out at another size than training had, where nothing resizes it."""
    if _settings(trained) is not None:
        return
    height, width, channels = pixels.shape
    expected = tuple(trained.record["input"]["shape"])
    for view in trained.method.eval_views:
        made = trained.views()[view]
        try:
            fits = made.settles_size or made.output_shape((channels, height, width)) == expected
        except LtbenchError:
            fits = False
        if not fits:
            raise UsageError(
                f"{name} is {height} x {width}, but {trained.folder.name} was trained on pictures "
                f"that come out at {expected[1]} x {expected[2]}, and its view '{view}' resizes "
                "none. Scale the picture as the training pictures were."
            )


def _part(names: Sequence[str], pictures: Pictures, trained: Trained) -> Part:
    return Part(
        images=pictures,
        positions=np.arange(len(names)),
        ids=np.array(names, dtype=np.str_),
        targets=np.zeros(len(names), dtype=np.int64),  # nobody reads them
        groups=None,
        class_names=trained.class_names,
    )


def _line(logits: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Predicted class and probabilities, with as many digits as float32 logits are worth."""
    shifted = logits.astype(np.float64) - float(logits.max())
    probabilities = np.exp(shifted) / np.exp(shifted).sum()
    return [class_names[int(logits.argmax())], *(f"{one:.9g}" for one in probabilities.tolist())]


def _table(names: Sequence[str], lines: dict[str, list[str]], found: UserPredictions) -> str:
    reasons = dict(found.broken)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"p({name})" for name in found.class_names), PROBLEM])
    for name in names:
        empty = [""] * (1 + len(found.class_names))
        writer.writerow([name, *lines.get(name, empty), reasons.get(name, "")])
    return text.getvalue()


class Pictures:
    """Decoded pictures in memory, each of its own size; fulfils `ltbench.dataset.Images`.

    Args:
        pictures: uint8 (height, width, channels) each.
        squares: by side, copies that were made straight from the files.
        digests: of the pixels before they were resized, str (N,).
    """

    # As pictures of a store, whose views are made alike.
    on_disk = True

    def __init__(
        self,
        pictures: Sequence[np.ndarray],
        squares: dict[int, list[np.ndarray]],
        digests: np.ndarray,
    ) -> None:
        self._pictures = list(pictures)
        self._squares = squares
        self._digests = digests

    @property
    def channels(self) -> int:
        """Of every picture."""
        return int(self._pictures[0].shape[2])

    @property
    def sizes(self) -> np.ndarray:
        """(height, width) of each picture, int64 (N, 2)."""
        return np.array([one.shape[:2] for one in self._pictures], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, position: int) -> np.ndarray:
        """One picture, uint8 (height, width, channels)."""
        return self._pictures[position]

    def take(self, positions: np.ndarray) -> Tensor:
        """Copies of pictures of one size, uint8 (n, channels, height, width)."""
        chosen = [self._pictures[at].transpose(2, 0, 1) for at in positions.tolist()]
        return torch.from_numpy(np.stack(chosen))

    def subset(self, positions: np.ndarray) -> Pictures:
        """These pictures alone, in this order."""
        chosen = positions.tolist()
        squares = {side: [of[at] for at in chosen] for side, of in self._squares.items()}
        return Pictures([self._pictures[at] for at in chosen], squares, self._digests[positions])

    def prepared(self, height: int, width: int) -> Pictures | None:
        """The squares of this size, where they were made."""
        if height != width or height not in self._squares:
            return None
        return Pictures(self._squares[height], {}, self._digests)

    def soon(self, positions: np.ndarray) -> None:
        """They are in memory already."""

    def fingerprints(self) -> Fingerprints:
        """Digests of the decoded pictures before they were resized."""
        return Fingerprints(None, self._digests)

    def digest(self) -> str:
        """Nothing is recorded of them."""
        raise UsageError("Pictures of a user have no digest: nothing is recorded of them.")
