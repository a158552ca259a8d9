"""What a bundle says of itself: its row, its seeds, its method's source, its members' digests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ltbench.bundles.members import MANIFEST, Members
from ltbench.files import canonical_json, sha256_hex

__all__ = ["SCHEMA_VERSION", "Manifest", "PluginSource", "read_manifest", "sources_digest"]

SCHEMA_VERSION: Final = 1
KIND: Final = "ltbench bundle"

_HEX = r"^[0-9a-f]{64}$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PluginSource(_Frozen):
    """The method's file and those of plugins that it imports.

    Attributes:
        name: of the method.
        digest: as `method_digest` in the record's key parts.
        files: (name of the file, member that holds it), in the order of the digest.
        main: the member that registers the method.
    """

    name: str
    digest: str = Field(pattern=_HEX)
    files: tuple[tuple[str, str], ...]
    main: str


class Manifest(_Frozen):
    """The manifest of a bundle.

    Attributes:
        label: what the row is called.
        key: of the configuration; all seeds share it.
        seeds: ascending; seed n lies in `seed-<n>/`.
        split_digest: of the split lists its images come from.
        members: SHA-256 (hex) of every member but the manifest, by name.
        made_with: the version of ltbench that wrote it.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["ltbench bundle"] = KIND
    label: str = Field(max_length=500, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]*( .*)?$")
    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    dataset: str = Field(max_length=200)
    protocol: str = Field(max_length=200)
    split_digest: str = Field(pattern=_HEX)
    class_names: tuple[str, ...]
    seeds: tuple[int, ...] = Field(min_length=1)
    plugin: PluginSource
    members: dict[str, str]
    made_with: str

    def to_bytes(self) -> bytes:
        """Canonical JSON; its SHA-256 is the digest of the bundle, zipped or not."""
        return canonical_json(self.model_dump(mode="json")).encode()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the manifest, and so of the whole bundle."""
        return sha256_hex(self.to_bytes())

    @property
    def name(self) -> str:
        """What files of this row are called: `<method with preset>-<key>`."""
        return f"{self.label.partition(' ')[0]}-{self.key}"


def seed_members(seed: int) -> dict[str, str]:
    """The members of one seed, by what they are."""
    names = {"record": "record.json", "config": "config.json", "predictions": "predictions.npz"}
    return {what: f"seed-{seed}/{name}" for what, name in names.items()}


def sources_digest(files: Sequence[tuple[str, str]]) -> str:
    """SHA-256 (hex) of source files given as (name, text), in this order; as in a run's key."""
    return sha256_hex("\0".join(f"{name}\n{text}" for name, text in files).encode())


def read_manifest(members: Members) -> Manifest:
    """The manifest, which names every member and nothing else.

    Raises:
        VerificationError: of another schema, not valid, or it does not fit what is there.
    """
    found = members.json(MANIFEST, members.read(MANIFEST))
    _check_schema(members, found)
    try:
        manifest = Manifest.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise members.fault(f"{MANIFEST}: {where}: {first['msg']}. Make the bundle again.") from (
            error
        )
    _check_members(members, manifest)
    return manifest


def _check_schema(members: Members, found: dict[str, Any]) -> None:
    version = found.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise members.fault(
            f"expected schema version {SCHEMA_VERSION}, it has {version!r}. Make the bundle again "
            "with a version of ltbench that writes this schema, or read it with the one that wrote "
            "it."
        )


def _check_members(members: Members, manifest: Manifest) -> None:
    there, named = set(members.sizes) - {MANIFEST}, set(manifest.members)
    needed = {name for seed in manifest.seeds for name in seed_members(seed).values()}
    needed |= {member for _, member in manifest.plugin.files}
    for what, names in (
        ("lacks members that its manifest names", named - there),
        ("holds members that its manifest does not name", there - named),
        ("holds members that belong to no seed and no plugin", named - needed),
        ("lacks members of its seeds or its plugin", needed - named),
    ):
        if names:
            raise members.fault(f"it {what}: {', '.join(sorted(names)[:5])}. Make it again.")
    seeds = manifest.seeds
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise members.fault(
            f"expected each seed once, it has {', '.join(map(str, seeds))}. A seed counted twice "
            "makes the spread look smaller than it is."
        )
    if manifest.plugin.main not in {member for _, member in manifest.plugin.files}:
        raise members.fault(
            f"{manifest.plugin.main} is not among the plugin's files. Make it again."
        )
