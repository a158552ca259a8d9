"""Plants one wrong sign, divisor or term at a time in the losses; a test must fail for each.

    python tests/planted_errors.py [METHOD ...]

It edits the files in place, one at a time, puts each back, and starts only where git has no changes
in them. Not collected by pytest: it takes about eight minutes. Ends with 1 if an error survived.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Method whose tests are run; file; what stands there once; what is planted.
ERRORS = (
    ("ce", "methods/ce.py", 'reduction="none"', 'reduction="mean"'),
    ("balanced_softmax", "methods/balanced_softmax.py", "logits + class", "logits - class"),
    ("focal", "methods/focal.py", "wrong.pow(gamma)", "wrong.pow(gamma + 1)"),
    ("focal", "methods/focal.py", "gamma * F.logsigmoid(-t)", "gamma * F.logsigmoid(t)"),
    ("focal", "methods/focal.py", "where(own, logits, -logits)", "where(own, -logits, logits)"),
    ("focal", "ltbench/functional.py", "expm1(class_counts *", "expm1(-class_counts *"),
    ("ldam_drw", "methods/ldam_drw.py", "targets[:, None], -own", "targets[:, None], own"),
    ("ldam_drw", "methods/ldam_drw.py", "** 0.25", "** 0.5"),
    ("logit_adjust", "methods/logit_adjust.py", "logits + shifts", "logits - shifts"),
    ("logit_adjust", "methods/logit_adjust.py", "logits - self.shifts", "logits + self.shifts"),
    ("logit_adjust", "methods/logit_adjust.py", "/ class_counts.sum())", "/ class_counts.max())"),
    ("mwnl", "methods/mwnl.py", "terms / logits.shape[1]", "terms / logits.shape[0]"),
    ("mwnl", "methods/mwnl.py", "/ (last - first)", "/ last"),
    ("mwnl", "methods/mwnl.py", "(bound / beta)", "(beta / bound)"),
    ("bbn", "methods/bbn.py", "(1 - alpha) * rebalancing, con", "(1 + alpha) * rebalancing, con"),
    ("bbn", "methods/bbn.py", "branch_factor * (1 - alpha)", "(1 - alpha)"),
    ("bbn", "ltbench/functional.py", "1.0 - (position / length)", "(position / length)"),
    ("crt", "methods/crt.py", "(1 + math.cos", "(1 - math.cos"),
    ("crt", "methods/crt.py", 'reduction="none"', 'reduction="mean"'),
    ("hybrid_sc", "methods/hybrid_sc.py", "logits, ~own) - sim", "logits, ~own) + sim"),
    ("hybrid_sc", "methods/hybrid_sc.py", "masked_logsumexp(logits, ~own)", "logits.logsumexp(1)"),
    ("hybrid_sc", "methods/hybrid_sc.py", "+ (1 - alpha) * class", "+ alpha * class"),
    (
        "scl",
        "ltbench/functional.py",
        "log_denominators - similarity",
        "log_denominators + similarity",
    ),
    ("scl", "ltbench/functional.py", "counts.clamp(min=1)", "len(logits)"),
    ("scl", "methods/scl.py", "temperature / base_temperature", "base_temperature / temperature"),
    ("bcl", "ltbench/functional.py", "~is_self(logits), divisors", "~is_self(logits)"),
    ("bcl", "methods/bcl.py", "log_prior, targets", "log_prior * 0, targets"),
    ("bcl", "methods/bcl.py", "logits + log_prior", "logits - log_prior"),
    ("tsc", "methods/tsc.py", "-(class_sums / num_positives)", "-(class_sums / num_keys)"),
    ("tsc", "methods/tsc.py", "-(target_sums / num_positives)", "(target_sums / num_positives)"),
    ("tsc", "methods/_spread.py", "num_targets / (num_targets - 1)", "num_targets / num_targets"),
    ("ecl", "methods/ecl.py", "return masked_mean(losses, has_positive)", "return losses.sum()"),
    ("ecl", "methods/ecl.py", "(10 * n) + 2", "(10 * n) + 1"),
    ("ecl", "methods/ecl.py", "mean_one(1 / class_counts)", "mean_one(class_counts)"),
    ("ecl", "methods/ecl.py", "mean_one(1 / f1.clamp", "mean_one(f1.clamp"),
    ("ecl", "methods/ecl.py", "(same.sum(dim=0) - 1).clamp", "same.sum(dim=0).clamp"),
    ("ecl", "ltbench/functional.py", "~is_self(logits), divisors", "~is_self(logits)"),
)


def failing_test(method: str) -> str:
    """The first test of the method's file that fails; empty if none does."""
    command = [sys.executable, "-m", "pytest", f"tests/methods/test_{method}.py", "-q", "-x"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) \S+?::(\S+)", done.stdout, re.M)
    if found is None:
        raise SystemExit(f"pytest did not run the tests of {method}:\n{done.stdout}{done.stderr}")
    return found[1]


def main(methods: list[str]) -> int:
    chosen = [error for error in ERRORS if not methods or error[0] in methods]
    files = sorted({file for _, file, *_ in chosen})
    changed = subprocess.run(
        ["git", "status", "--porcelain", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if changed:
        raise SystemExit(f"Commit these first, they are edited and put back:\n{changed}")
    survived = 0
    for method, name, right, wrong in chosen:
        file = ROOT / name
        text = file.read_text("utf-8")
        if text.count(right) != 1:
            raise SystemExit(f"{name}: {right!r} stands there {text.count(right)} times, not once")
        try:
            file.write_text(text.replace(right, wrong), "utf-8")
            failed = failing_test(method)
        finally:
            file.write_text(text, "utf-8")
        survived += not failed
        print(f"{method}: {right} -> {wrong}: {failed or 'SURVIVED'}", flush=True)
    print(f"{len(chosen)} planted, {survived} survived")
    return int(survived > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
