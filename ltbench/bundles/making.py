"""From finished runs to a bundle: one configuration with its seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ltbench import stored_predictions
from ltbench.bundles.arrays import PARTS
from ltbench.bundles.manifest import Manifest, PluginSource, seed_members, sources_digest
from ltbench.bundles.members import MANIFEST
from ltbench.bundles.portable import command, portable
from ltbench.errors import DataMissingError, UsageError, VerificationError
from ltbench.files import sha256_hex
from ltbench.registry import METHODS, source_files
from ltbench.results import SCHEMA_VERSION, RunFolder, find_run, run_folders

__all__ = ["bundle_members", "rows_in", "runs_of"]


def runs_of(results: Path, name: str) -> list[RunFolder]:
    """The finished runs of one configuration, by seed.

    Args:
        name: a key or its beginning; a run (`<key>/seed-<n>` or its folder) stands for its key.

    Raises:
        UsageError: no such configuration, or several.
    """
    prefix = name.strip().rstrip("/")
    keys = {run.path.parent for run in run_folders(results)}
    near = sorted(key for key in keys if prefix and key.name.startswith(prefix))
    matches = [key for key in near if key.name == prefix] or near
    if not matches:
        matches = [find_run(results, name).path.parent]
    if len(matches) > 1:
        listed = "".join(f"\n  {key.name}  ({key.parent.name})" for key in matches[:10])
        raise UsageError(f"'{name}' is the beginning of {len(matches)} keys:{listed}")
    return _done(matches[0])


def rows_in(root: Path, **selection: Any) -> list[list[RunFolder]]:
    """The finished runs below a folder of results, those of one configuration together."""
    keys = dict.fromkeys(run.path.parent for run in run_folders(root, **selection))
    return [runs for runs in (_finished(key) for key in keys) if runs]


def _done(key: Path) -> list[RunFolder]:
    runs = _finished(key)
    if not runs:
        raise DataMissingError(f"No run in {key} is finished. Run it to its end first.")
    return runs


def _finished(key: Path) -> list[RunFolder]:
    folders = (RunFolder(folder) for folder in key.glob("seed-*"))
    done = [run for run in folders if (run.path / "record.json").is_file()]
    return sorted(done, key=lambda run: int(run.path.name.removeprefix("seed-")))


def bundle_members(runs: Sequence[RunFolder]) -> dict[str, bytes]:
    """The members of a bundle of these runs, the manifest among them.

    Metadata of images (age, sex, site) stay at home; groups go along, as scoring needs them.

    Raises:
        UsageError: runs of several configurations.
        DataMissingError: the method's file is not known here.
        VerificationError: a run is not whole, or its method's file has changed since.
    """
    records = [run.record() for run in runs]
    _check_alike(runs, records)
    members: dict[str, bytes] = {}
    for run, record in zip(runs, records, strict=True):
        members |= _seed(run, record)
    first = records[0]
    plugin, sources = _plugin(first)
    members |= sources
    manifest = Manifest(
        label=portable(first["label"]),
        key=first["key"],
        dataset=first["dataset"],
        protocol=first["protocol"],
        split_digest=first["split_digest"],
        class_names=tuple(first["class_names"]),
        seeds=tuple(record["seed"] for record in records),
        plugin=plugin,
        members={name: sha256_hex(members[name]) for name in sorted(members)},
        made_with=first["versions"]["ltbench"],
    )
    return {**members, MANIFEST: manifest.to_bytes()}


def _check_alike(runs: Sequence[RunFolder], records: Sequence[dict[str, Any]]) -> None:
    for run, record in zip(runs, records, strict=True):
        if record["schema_version"] != SCHEMA_VERSION:
            raise VerificationError(
                f"{run.path}: its record has schema version {record['schema_version']}, expected "
                f"{SCHEMA_VERSION}. Run the cell again."
            )
    keys = sorted({record["key"] for record in records})
    if len(keys) != 1:
        raise UsageError(
            f"A bundle is one configuration with its seeds; these runs have the keys "
            f"{', '.join(keys) or '(none)'}. Make a bundle of each."
        )


def _seed(run: RunFolder, record: dict[str, Any]) -> dict[str, bytes]:
    names = seed_members(record["seed"])
    predictions = {
        part: replace(run.read_predictions(part), metadata={})
        for part in PARTS
        if record["metrics"].get(part) is not None
    }
    # The key's parts hold no path, and the key is their digest: they go along as they are.
    told = {**portable(record), "key_parts": record["key_parts"]}
    told["command"] = command(record["command"])
    return {
        names["record"]: _pretty(told),
        names["config"]: _pretty(portable(run.config())),
        # Not compressed within: the bundle's digests then depend on no version of zlib.
        names["predictions"]: stored_predictions.to_bytes(predictions, compressed=False),
    }


def _pretty(value: Any) -> bytes:
    """As run folders have it, in the order in which it was written, which tables keep."""
    return f"{json.dumps(value, indent=1, allow_nan=False)}\n".encode()


def _plugin(record: dict[str, Any]) -> tuple[PluginSource, dict[str, bytes]]:
    """(what the manifest says of the method's source, the members that hold it)."""
    name, expected = record["method"], record["key_parts"]["method_digest"]
    if name not in METHODS:
        raise DataMissingError(
            f"The bundle needs the source of the method '{name}', which is not known here. Give "
            f"its file: --plugin {name}.py"
        )
    main = METHODS.info(name).file
    files = [] if main is None else source_files(main)
    texts = [(path.name, path.read_text(encoding="utf-8")) for path in files]
    if sources_digest(texts) != expected:
        raise VerificationError(
            f"The source of the method '{name}' is not the one that {record['name']} was trained "
            f"with: expected digest {expected[:12]}, its files here give "
            f"{sources_digest(texts)[:12]}. Bundle it with the source it was trained with (commit "
            f"{(record.get('git') or {}).get('commit', 'not recorded')}), or run it again."
        )
    members: dict[str, bytes] = {}
    held = []
    for number, (file, text) in enumerate(texts):
        member = f"plugin/{file}"
        if member in members:  # packages of others have files of one name in several folders
            member = f"plugin/{number}/{file}"
        members[member] = text.encode("utf-8")
        held.append((file, member))
    registers = held[[str(path) for path in files].index(str(Path(str(main)).resolve()))][1]
    source = PluginSource(name=name, digest=expected, files=tuple(held), main=registers)
    return source, members
