"""Getting the files of a manifest: from mirrors or by hand, checked, and unpacked."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import requests

from ltbench.dataset import FetchRequest
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.fetch.archive import folder_fault, unpack
from ltbench.fetch.check import file_fault
from ltbench.fetch.manifest import RemoteFile, listed, shown, size_text
from ltbench.fetch.place import alone, require_room, writing
from ltbench.fetch.transfer import (
    Part,
    TransferError,
    WrongContentError,
    new_session,
    transfer,
)

__all__ = ["fetch"]


_MARGIN = 1.05  # folders and rounding take some room themselves


def fetch(
    files: Sequence[RemoteFile],
    root: Path,
    request: FetchRequest,
    *,
    licence: str,
    citations: Sequence[str],
) -> list[Path]:
    """Get the files of a data set that are not here yet; check and unpack them.

    What is here and right is left alone, and then neither the network nor a right to write is
    needed. A file that is here and wrong is named and never replaced. With `request.from_dir` files
    are taken from that folder, which is only read: archives are unpacked from where they lie, other
    files are linked or copied. Otherwise the mirrors are tried in order; a download that broke goes
    on where it ended, in this call and in the next.

    Args:
        files: the manifest.
        root: the data root; made where it is missing.
        request: what the user allows, and takes the lines for the user.
        licence: what the user must accept; shown before anything is downloaded.
        citations: what the authors ask to be cited, one an item.

    Returns:
        Where each lies, in the order of `files`: the folder of what is unpacked, else the file.
        Optional files that could not be had are left out.

    Raises:
        DataMissingError: no mirror has a file, or it is not in `from_dir`; the message names each
            URL with its reason, and the other ways.
        RunFailedError: there is too little room.
        UsageError: the licence was not accepted, the folder cannot be written to, or another
            process is fetching the same file.
        VerificationError: a file is damaged, or is not what it should be.
    """
    _refuse_twins(files)
    waiting = _waiting(files, root, request.say)
    for file in waiting:
        if (root / file.name).exists():
            with alone(root / file.name):
                _unpack(root / file.name, file, root, request.say)
    missing = [file for file in waiting if not _is_here(file, root)]
    if missing and request.from_dir is not None:
        _take_all(missing, request.from_dir, root, request.say)
    elif missing:
        _download_all(missing, root, request, licence, citations)
    return [_place(file, root) for file in files if _is_here(file, root)]


def _place(file: RemoteFile, root: Path) -> Path:
    return root / (file.unpacks_to or file.name)


def _is_here(file: RemoteFile, root: Path) -> bool:
    place = _place(file, root)
    return place.exists() and not (file.unpacks_to and _is_empty(place))


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _refuse_twins(files: Sequence[RemoteFile]) -> None:
    places = Counter(str(_place(file, Path())) for file in files)
    twins = [place for place, times in places.items() if times > 1]
    if twins:
        raise UsageError(f"The manifest has more than one entry for {', '.join(twins)}.")


def _waiting(
    files: Sequence[RemoteFile], root: Path, say: Callable[[str], None]
) -> list[RemoteFile]:
    """The files that are not here, or not unpacked; raises where one is here and wrong."""
    waiting, faults = [], []
    for file in files:
        path, fault = root / file.name, None
        if file.unpacks_to and _is_here(file, root):
            path = _place(file, root)
            fault = folder_fault(path, file)
        else:
            if path.exists():
                fault = file_fault(file, path, say)
            if file.unpacks_to or not path.exists():
                waiting.append(file)
        if fault is not None:
            faults.append(f"{path}: {fault}")
    if faults:
        raise VerificationError(
            f"What is in the data folder is not what it should be:\n{listed(faults)}\nNothing is "
            "replaced unasked: move or delete it, then run the same command again."
        )
    if not waiting:
        say(f"Everything is in {root} already.")
    return waiting


def _unpack(path: Path, file: RemoteFile, root: Path, say: Callable[[str], None]) -> None:
    say(f"Unpacking {path} to {_place(file, root)}.")
    unpack(path, file, root)
    if path.is_relative_to(root):
        say(f"It may be deleted now, which frees {size_text(path.stat().st_size)}.")


def _download_all(
    missing: list[RemoteFile],
    root: Path,
    request: FetchRequest,
    licence: str,
    citations: Sequence[str],
) -> None:
    addresses = {file.name: file.addresses(request.mirror) for file in missing}
    _show(missing, root, request, licence, citations)
    if not request.accept_licence:
        if all(file.optional for file in missing):
            request.say("They are optional; --accept-licence downloads them.")
            return
        raise UsageError(
            "Nothing was downloaded, because the licence was not accepted. Read the licence above; "
            "if you accept it, run the same command with --accept-licence."
        )
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    _require_room_for(missing, root)
    session = new_session()
    for file in missing:
        try:
            with alone(root / file.name):
                _download(session, file, addresses[file.name], root, request.say)
                if file.unpacks_to:
                    _unpack(root / file.name, file, root, request.say)
        except (DataMissingError, VerificationError) as error:
            if not file.optional:
                left = [one for one in missing if not _is_here(one, root)]
                raise type(error)(f"{error}\n{_other_ways(left)}") from error
            request.say(f"{error}\n{file.name} is optional and is left out.")


def _show(
    missing: list[RemoteFile],
    root: Path,
    request: FetchRequest,
    licence: str,
    citations: Sequence[str],
) -> None:
    total = sum(file.likely_bytes for file in missing)
    request.say(f"To be downloaded to {root.absolute()}, about {size_text(total)} in all:")
    for file in missing:
        size = size_text(file.likely_bytes) if file.likely_bytes else "size unknown"
        folder = f", unpacked to {file.unpacks_to}" if file.unpacks_to else ""
        request.say(f"  {file.name} ({size}{folder}{', optional' if file.optional else ''})")
    request.say(f"Licence: {licence}")
    for citation in citations:
        request.say(f"Please cite: {citation}")
    open_mirror = request.mirror is not None and request.mirror.startswith("http:")
    if open_mirror and not all(file.vouched for file in missing):
        request.say("Note: the mirror is not encrypted, and not every file has a known digest.")


def _require_room_for(missing: list[RemoteFile], root: Path) -> None:
    download = sum(file.likely_bytes - Part(root / file.name).size for file in missing)
    unpacked = sum(file.unpacked_bytes or file.likely_bytes for file in missing if file.unpacks_to)
    require_room(
        root,
        round(_MARGIN * (max(download, 0) + unpacked)),
        f"{size_text(max(download, 0))} of downloads and {size_text(unpacked)} unpacked",
    )


def _download(
    session: requests.Session,
    file: RemoteFile,
    urls: Sequence[str],
    root: Path,
    say: Callable[[str], None],
) -> None:
    failures: list[tuple[str, TransferError]] = []
    for url in urls:
        say(f"Downloading {file.name} from {shown(url)}.")
        try:
            _download_from(session, file, url, root / file.name, say)
        except TransferError as error:
            failures.append((url, error))
            say(f"{file.name}: {error}.")
        else:
            return
    # Content that is wrong is more than a file that is not there.
    wrong = any(isinstance(error, WrongContentError) for _url, error in failures)
    reasons = listed([f"{shown(url)}: {error}" for url, error in failures])
    message = f"{file.name} could not be downloaded:\n{reasons}"
    raise VerificationError(message) if wrong else DataMissingError(message)


def _download_from(
    session: requests.Session,
    file: RemoteFile,
    url: str,
    path: Path,
    say: Callable[[str], None],
) -> None:
    part = Part(path)
    in_pieces = transfer(session, file, url, part, say)
    fault = file_fault(file, part.path, say)
    if fault is not None and in_pieces:
        say(f"{file.name}, put together of pieces: {fault}. It is downloaded anew, as a whole.")
        part.discard()
        transfer(session, file, url, part, say)
        fault = file_fault(file, part.path, say)
    if fault is not None:
        part.discard()  # else the next call would go on with it
        raise WrongContentError(fault)
    part.finish(path)


def _other_ways(missing: list[RemoteFile]) -> str:
    return (
        "What was downloaded is kept: the same command goes on from there. Two other ways: a copy "
        "of the files elsewhere, with --mirror URL; or by hand: download these into one folder, "
        "keep their names, and run the same command with --from-dir FOLDER:\n"
        f"{listed([file.described() for file in missing])}"
    )


def _take_all(
    missing: list[RemoteFile], folder: Path, root: Path, say: Callable[[str], None]
) -> None:
    if not folder.is_dir():
        raise UsageError(f"--from-dir {folder}: expected a folder, found none.")
    names = [PurePosixPath(file.name).name for file in missing]
    found, lost, faults = [], [], []
    for file, name in zip(missing, names, strict=True):
        path = folder / file.name
        if not path.exists() and names.count(name) == 1:
            path = folder / name
        if path.exists():
            found.append((file, path))
            fault = file_fault(file, path, say)
            faults += [f"{path}: {fault}"] if fault else []
        elif file.optional:
            say(f"{file.name} is not in {folder}; it is optional and is left out.")
        else:
            lost.append(file)
    if lost:
        raise DataMissingError(_lost(lost, folder, root))
    if faults:
        raise VerificationError(
            f"Files in {folder} are not what they should be:\n{listed(faults)}\nNothing was taken. "
            "Download these anew, then run the same command again."
        )
    for file, path in found:
        with alone(root / file.name):
            _take(path, file, root, say)


def _lost(lost: list[RemoteFile], folder: Path, root: Path) -> str:
    lines = []
    for file in lost:
        is_unpacked = file.unpacks_to is not None and (folder / file.unpacks_to).is_dir()
        hint = f"; {file.unpacks_to} is unpacked already: move it to {root}" if is_unpacked else ""
        lines.append(f"{file.described()}{hint}")
    return (
        f"Expected more files in {folder}. Download these into it, keep their names, and run the "
        f"same command again:\n{listed(lines)}"
    )


def _take(path: Path, file: RemoteFile, root: Path, say: Callable[[str], None]) -> None:
    if file.unpacks_to:
        _unpack(path, file, root, say)
        return
    target = root / file.name
    temporary = target.with_name(f".{target.name}.copy")
    with writing(root):
        temporary.unlink(missing_ok=True)
        try:
            os.link(path.resolve(), temporary)
        except OSError:  # another file system, or one without links
            require_room(root, path.stat().st_size, f"to copy {path}")
            shutil.copyfile(path, temporary)
        os.replace(temporary, target)
    say(f"Took {path}.")
