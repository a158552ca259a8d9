"""Train a bundle's row again, in a fresh process, and compare what comes out."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ltbench import provenance
from ltbench.bundles.manifest import sources_digest
from ltbench.bundles.reading import Bundle, refuse
from ltbench.errors import RunFailedError, UsageError, VerificationError
from ltbench.files import write_json
from ltbench.metrics import METRICS
from ltbench.registry import DATASETS, METHODS, source_files
from ltbench.results import run_folders

__all__ = ["rerun"]

Facts = dict[str, Any]

# Parts of a key that decide what is learned; the others say on what machine.
_SAME = ("config", "split_digest", "source_digest", "method_digest", "weights_digest")
_FACTS = ("class_names", "train_counts", "uses_validation", "feedback_split", "leak")
_COMPARED = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")
_TAIL = 2000  # characters of a failed run's output that are shown


def rerun(
    bundle: Bundle,
    *,
    trust_plugin: bool,
    tolerance: float,
    data_root: Path | None,
    plugins: Sequence[Path] = (),
    say: Callable[[str], None],
) -> Facts:
    """Train every seed again and compare digests, or else the test metrics.

    A method that this installation has is trained from its own file, which must be the one in the
    bundle. Any other is code of the bundle's maker: it is written to a folder that is removed
    afterwards, and run with the user's rights, where the user has said so.

    Args:
        plugins: files of the user's own, such as that of the data set.
        tolerance: how far accuracy, balanced accuracy, macro F1 and macro AUC may be off where the
            digests differ, as they do on other processors.

    Returns:
        What the row tells of it: `equal` ("bit for bit" or "within ..."), `largest_difference` of
        those metrics, `seeds`, parts of the key that are other here (`other_machine`), `versions`.

    Raises:
        UsageError: the code was not trusted, or cannot be run alone.
        VerificationError: something else came out.
        RunFailedError: a run failed.
    """
    with tempfile.TemporaryDirectory(prefix="ltbench-rerun-") as scratch:
        work = Path(scratch)
        code = [*(file.resolve() for file in plugins), *_plugin(bundle, work, trust_plugin)]
        _check_alone(bundle)
        largest, other, bits = 0.0, set[str](), True
        for seed in bundle.manifest.seeds:
            say(f"training seed {seed} of {bundle.manifest.label} again")
            record = _train(bundle, seed, code, work, data_root)
            claimed = bundle.records[seed]
            problems, different = _key_problems(claimed, record)
            other |= different
            same = claimed["digests"] == record["digests"]
            off = _largest_difference(claimed, record)
            if not same and off[0] > tolerance:
                problems.append(
                    f"test {off[1]}: claimed {off[2]:.6f}, trained again {off[3]:.6f}; expected "
                    f"the same digests, or at most {tolerance:g} between the metrics."
                )
            refuse(bundle.path, [f"seed {seed}, trained again: {one}" for one in problems])
            largest, bits = max(largest, off[0]), bits and same
    return {
        "equal": "bit for bit" if bits else f"within {tolerance:g}",
        "largest_difference": largest,
        "seeds": list(bundle.manifest.seeds),
        "other_machine": sorted(other),
        "versions": provenance.versions(),
    }


def _plugin(bundle: Bundle, work: Path, trust_plugin: bool) -> list[Path]:
    """The file to load the method from; none where this installation has the very same."""
    name = bundle.manifest.plugin.name
    if name in METHODS:
        file = METHODS.info(name).file
        files = [] if file is None else source_files(file)
        texts = [(path.name, path.read_text(encoding="utf-8")) for path in files]
        if sources_digest(texts) == bundle.manifest.plugin.digest:
            return []
        raise VerificationError(
            f"{bundle.path}: the method '{name}' here has digest {sources_digest(texts)[:12]}, the "
            f"bundle's {bundle.manifest.plugin.digest[:12]}. Train it again with the version of "
            f"ltbench that has the same file, or ask its maker to name a method of their own "
            "otherwise."
        )
    main = bundle.manifest.plugin.main
    if not trust_plugin:
        raise UsageError(
            f"To train '{name}' again, {main} of the bundle must be run here, with your rights: it "
            "could read, send and delete whatever you can. Read it, best in a container, then give "
            "--trust-plugin. Without --rerun nothing of the bundle is run."
        )
    file = work / f"{name}.py"
    members = [member for _, member in bundle.manifest.plugin.files]
    file.write_text(bundle.sources[members.index(main)][1], encoding="utf-8")
    return [file]


def _check_alone(bundle: Bundle) -> None:
    """Refuse what a bundle does not hold: other runs' weights, files, several devices."""
    config = bundle.configs[bundle.manifest.seeds[0]]
    if str(config.get("dataset_name")) not in DATASETS:
        raise UsageError(
            f"{bundle.path}: the data set '{config.get('dataset_name')}' is not known here. Give "
            "its file: --plugin FILE"
        )
    from_file = bundle.first["key_parts"]["config"].get("weights") == "file"
    if from_file or any(one.get("init_from") is not None for one in bundle.configs.values()):
        raise UsageError(
            f"{bundle.path} starts from another run's weights or a file's, which are not in the "
            "bundle. It can be re-scored only."
        )
    if bundle.first["num_devices"] != 1:
        raise UsageError(
            f"{bundle.path} was trained on {bundle.first['num_devices']} devices; --rerun trains "
            "on one. Repeat it by its command, and compare the records."
        )


def _train(
    bundle: Bundle, seed: int, code: Sequence[Path], work: Path, data_root: Path | None
) -> Facts:
    """The record of a run in a fresh process."""
    record = bundle.records[seed]
    config = dict(bundle.configs[seed])
    # Places are the reader's: a stranger's would be read, or made a store in, on this machine.
    config["dataset"] = record["key_parts"]["config"]["dataset"]
    # All cores of another machine would be another number of threads.
    config["machine"] = {**config["machine"], "threads": record["threads"]}
    results = work / f"seed-{seed}"
    job = {
        "config": config,
        "label": record["label"],
        "plugins": [str(file) for file in code],
        "results": str(results),
        "data_root": None if data_root is None else str(data_root.resolve()),
    }
    write_json(work / "job.json", job)
    done = subprocess.run(
        # -P: what lies where the user stands is not imported.
        [sys.executable, "-P", "-m", "ltbench.bundles.training", str(work / "job.json")],
        cwd=work,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    finished = [run for run in run_folders(results) if (run.path / "record.json").is_file()]
    if done.returncode != 0 or len(finished) != 1:
        tail = (done.stderr.strip() or done.stdout.strip())[-_TAIL:]
        raise RunFailedError(
            f"{bundle.path}: seed {seed} could not be trained again (exit code "
            f"{done.returncode}):\n{tail}"
        )
    return finished[0].record()


def _key_problems(claimed: Facts, found: Facts) -> tuple[list[str], set[str]]:
    """(what is another row than claimed, parts of the key that are another machine's)."""
    mine, theirs = claimed["key_parts"], found["key_parts"]
    differing = {name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name)}
    # A later version may know settings that the row's did not, at their defaults.
    config, found_config = mine["config"], theirs["config"]
    if "config" in differing and all(found_config.get(k) == v for k, v in config.items()):
        differing = (differing - {"config"}) | {f"config.{k}" for k in {*found_config} - {*config}}
    problems = [f"{name}: another one than in its key." for name in sorted(differing & set(_SAME))]
    problems += [
        f"{name}: claimed {str(claimed[name])[:60]}, it is {str(found[name])[:60]}."
        for name in _FACTS
        if claimed[name] != found[name]
    ]
    return problems, differing - set(_SAME)


def _largest_difference(claimed: Facts, found: Facts) -> tuple[float, str, float, float]:
    """(difference, metric, claimed, found) of the test metric that is off most."""
    pairs = []
    for name in _COMPARED:
        values = [METRICS[name].read(record["metrics"]["test"]) for record in (claimed, found)]
        mine, theirs = (float("nan") if value is None else value for value in values)
        both = values[0] is not None and values[1] is not None
        off = abs(mine - theirs) if both else float(values[0] is not values[1])
        pairs.append((off, name, mine, theirs))
    return max(pairs)
