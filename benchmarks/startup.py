"""How long the commands that need no torch take, beside the bare interpreter.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

BENCH = Path(__file__).resolve().parents[1] / "bench.py"
BARE = "bare interpreter"
COMMANDS: dict[str, list[str]] = {
    BARE: ["-c", "pass"],
    "bench.py --help": [str(BENCH), "--help"],
    "bench.py list methods": [str(BENCH), "list", "methods"],
    "bench.py list datasets": [str(BENCH), "list", "datasets"],
}
TARGET_S = 0.4


def seconds(arguments: list[str]) -> float:
    """Wall time of one fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def heavy_imports(arguments: list[str]) -> list[str]:
    """Which of torch, torchvision, timm, scikit-learn and pandas the command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return sorted(modules & {"torch", "torchvision", "timm", "sklearn", "pandas"})


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--repeats", default=9, show_default=True, type=click.IntRange(1))
@click.option("--check", is_flag=True, help=f"Exit 1 where a median is over {TARGET_S} s more.")
def main(repeats: int, check: bool) -> None:
    """Print medians of the commands in turns, and what each takes beyond the interpreter."""
    for arguments in COMMANDS.values():
        seconds(arguments)  # writes compiled files and fills the disk cache
    rounds = [{name: seconds(args) for name, args in COMMANDS.items()} for _ in range(repeats)]
    beyond = {}
    for name, arguments in COMMANDS.items():
        times = [one[name] for one in rounds]
        beyond[name] = statistics.median(one[name] - one[BARE] for one in rounds)
        line = (
            f"{name:<24} {statistics.median(times):.3f} s (min {min(times):.3f}, max "
            f"{max(times):.3f})"
        )
        if name != BARE:
            heavy = ", ".join(heavy_imports(arguments)) or "none"
            line += f", {beyond[name]:+.3f} s; heavy imports: {heavy}"
        click.echo(line)
    click.echo(f"target: less than {TARGET_S} s beyond the interpreter")
    if check and max(beyond.values()) >= TARGET_S:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
