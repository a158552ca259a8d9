"""What a data set needs from elsewhere: files, where they lie, and how to know them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ltbench.errors import DataMissingError, UsageError

__all__ = ["RemoteFile", "listed", "login_needed", "name_fault", "shown", "size_text"]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_CHECKED_INSIDE = (".zip", ".npz", ".gz", ".tgz")  # these formats hold a CRC-32 of their content
_NUM_LISTED = 10


@dataclass(frozen=True)
class RemoteFile:
    """One file to download, and all that is known about it.

    Attributes:
        name: where it is to lie below the data root, with "/" between folders.
        urls: mirrors, tried in this order; https, or http where a digest is given.
        size: exact size in bytes.
        about_bytes: approximate size, for the notice and the check of free space.
        sha256: digest (hex) that the publisher vouches for; another content is an error.
        md5: the same, where only an MD5 is published.
        sha256_seen: digest of a public copy that nobody vouches for; a difference is only said.
        unpacks_to: folder that every member of the archive lies in; it is unpacked below the data
            root under this name. None leaves the file as it is.
        unpacked_bytes: approximate size of that folder; None takes the size of the archive.
        num_files: members by lower-case suffix, such as {".jpg": 25331}; suffixes that are not
            named may occur in any number.
        optional: the data set can be used without it; that it could not be had is only said.

    Raises:
        UsageError: the entry contradicts itself; a fault of the data set's plugin.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    about_bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    sha256_seen: str | None = None
    unpacks_to: str | None = None
    unpacked_bytes: int | None = None
    num_files: Mapping[str, int] | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        faults = [fault for fault in self._faults() if fault]
        if faults:
            raise UsageError(f"The manifest's entry '{self.name}' {'; '.join(faults)}.")

    def _faults(self) -> Iterable[str | None]:
        places = [self.name] if self.unpacks_to is None else [self.name, self.unpacks_to]
        yield from (f"has a place with {fault}" for fault in map(name_fault, places) if fault)
        if not self.urls:
            yield "has no URL"
        for url in self.urls:
            if not is_safe(url, vouched=self.vouched):
                yield f"has the URL {url}; expected https, or http together with a digest"
        for kind, digits in (("sha256", 64), ("md5", 32), ("sha256_seen", 64)):
            digest = getattr(self, kind)
            if digest is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", digest):
                yield f"has the {kind} '{digest}'; expected {digits} lower-case hex digits"
        if self.unpacks_to and not self.name.endswith(ARCHIVES):
            yield f"cannot be unpacked; expected one of {', '.join(ARCHIVES)}"
        if self.num_files and not self.unpacks_to:
            yield "counts members, but says not where they are unpacked to"
        for suffix in self.num_files or ():
            if not suffix.startswith(".") or suffix != suffix.lower():
                yield f"counts '{suffix}'; expected a lower-case suffix such as .jpg"

    @property
    def vouched(self) -> bool:
        """A digest says whether the content is right."""
        return bool(self.sha256 or self.md5)

    @property
    def pieces_fit(self) -> bool:
        """Whether pieces of several mirrors could be told from one whole file."""
        return self.vouched or self.name.endswith(_CHECKED_INSIDE)

    @property
    def likely_bytes(self) -> int:
        """The size as well as it is known; 0 where it is not."""
        return self.size or self.about_bytes or 0

    def addresses(self, mirror: str | None) -> tuple[str, ...]:
        """URLs to try, in order.

        Args:
            mirror: a base URL in place of the known ones. Below it are tried the file's own name,
                then the last one and the last two components of each known URL: `MIRROR/<name>`,
                `MIRROR/<file>`, `MIRROR/2019/<file>`.

        Raises:
            UsageError: the mirror is no http or https URL.
        """
        if mirror is None:
            return self.urls
        address = urlsplit(mirror)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UsageError(
                f"--mirror {mirror}: expected a base URL such as https://host/folder. Files that "
                "lie in a folder are taken with --from-dir DIR."
            )
        tails = [self.name]
        for url in self.urls:
            parts = [part for part in urlsplit(url).path.split("/") if part]
            tails += ["/".join(parts[-1:]), "/".join(parts[-2:])]
        return tuple(f"{mirror.rstrip('/')}/{tail}" for tail in dict.fromkeys(tails))

    def described(self) -> str:
        """Name, size and first URL, for a user who gets the file by hand."""
        size = f" ({size_text(self.likely_bytes)})" if self.likely_bytes else ""
        return f"{self.name}{size} from {shown(self.urls[0])}"


def name_fault(name: str) -> str | None:
    """Why the name of a file or of a member could lead out of its folder; None if it cannot."""
    if "\\" in name:
        return "a backslash"
    if re.match(r"[A-Za-z]:", name):
        return "a drive letter"
    if name.startswith("/"):
        return "an absolute path"
    if ".." in name.split("/"):
        return "a step upwards (..)"
    if not name.isprintable():
        return "an unprintable character"
    return None if PurePosixPath(name).parts or name in (".", "./") else "no name"


def is_safe(url: str, *, vouched: bool) -> bool:
    """Https; or http where a digest proves the content, or within this machine."""
    address = urlsplit(url)
    if address.scheme == "http":
        return vouched or _is_loopback(address.hostname or "")
    return address.scheme == "https" and bool(address.hostname)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shown(url: str) -> str:
    """A URL as it may be printed: without the name and password it may hold."""
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def size_text(num_bytes: int) -> str:
    """'9.8 GB', '12.3 MB', '456 bytes': powers of ten, as disks are sold."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"


def listed(items: Sequence[str]) -> str:
    """One item a line, indented: the first ten, and how many more there are."""
    more = len(items) - _NUM_LISTED
    lines = [*items[:_NUM_LISTED], *([f"and {more} more"] if more > 0 else [])]
    return "\n".join(f"  {line}" for line in lines)


def login_needed(
    name: str, page: str, folder: Path, expected: Sequence[str], *, command: str | None = None
) -> DataMissingError:
    """The error for data that only a person can get, after a login or an application.

    Args:
        name: the data set.
        page: where to log in and to accept the terms.
        folder: where the files are looked for.
        expected: files and folders below it.
        command: what to run next; None for `python bench.py data prepare NAME`.

    Returns:
        The error, to be raised.
    """
    return DataMissingError(
        f"{name} is behind a login, so ltbench cannot download it. Three steps:\n"
        f"1. Visit {page}, log in, accept the terms and download.\n"
        f"2. Put these into {folder}:\n{listed(expected)}\n"
        f"3. Run: {command or f'python bench.py data prepare {name}'}"
    )
