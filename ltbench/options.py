"""Options that commands share, and what they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ltbench.errors import UsageError
from ltbench.program import DEFAULT_RESULTS
from ltbench.registry import suggest

if TYPE_CHECKING:
    from ltbench.config import Request
    from ltbench.console import Console
    from ltbench.runner import Place


class Commands(click.Group):
    """A group that answers an unknown command with the nearest known one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's, with a suggestion."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise UsageError(suggest("command", args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


results_option = click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_RESULTS,
    show_default=True,
    help="Root of the runs.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A plugin file of your own; may be given several times.",
)


# Flags of `run` that are settings, and the settings they set.
SETTING_FLAGS: dict[str, str] = {
    "epochs": "epochs",
    "batch_size": "batch_size",
    "backbone": "backbone",
    "weights": "weights",
    "precision": "precision",
    "select": "select",
    "split_seed": "split_seed",
    "device": "machine.device",
    "devices": "machine.devices",
    "threads": "machine.threads",
    "workers": "machine.workers",
    "skip_broken": "dataset.skip_broken",
}


_path = click.Path(path_type=Path)
_SHARED_OPTIONS = [
    click.option("--recipe", help="Training recipe; default: the data set's."),
    click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting."),
    click.option("--config", "config_file", type=_path, help="A YAML file of settings."),
    click.option(
        "--tuned",
        "tuned_file",
        type=_path,
        help="A file of tuned settings, or the folder of all methods' files.",
    ),
    click.option("--epochs", type=int),
    click.option("--batch-size", type=int, help="Images a step, over all devices together."),
    click.option("--backbone"),
    click.option("--weights", help="none, a timm tag, or a file."),
    click.option("--precision", help="32, bf16 or auto."),
    click.option("--select", help="val.accuracy, val.macro_f1, val.balanced_accuracy or last."),
    click.option("--split-seed", type=int, help="Which images go where; 0 unless given."),
    click.option("--device", help="auto, cpu or cuda."),
    click.option("--devices", type=int, help="Devices of one run (DDP)."),
    click.option("--threads", type=int, help="CPU threads; part of the key."),
    click.option("--workers", type=int, help="Processes that make views on the CPU."),
    click.option(
        "--skip-broken",
        is_flag=True,
        default=None,
        help="Leave out, and record, pictures that cannot be read.",
    ),
    click.option("--data-root", type=_path, help="Where the data lie."),
    results_option,
    plugin_option,
]
_protocol_option = click.option(
    "--protocol", help="How the data are split; default: the data set's."
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that runs one configuration."""
    return _with([_protocol_option, *_SHARED_OPTIONS], command)


def grid_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Those of a command that runs many; it has a plural of `--protocol` of its own."""
    return _with(_SHARED_OPTIONS, command)


def settings_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that flags give, by dotted name."""
    from ltbench.settings import parse_assignments

    settings = parse_assignments(flags["assignments"])
    return settings | {
        key: flags[flag] for flag, key in SETTING_FLAGS.items() if flags.get(flag) is not None
    }


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def place_of(flags: dict[str, Any], console: Console) -> Place:
    """Where flags put runs, shown on the console."""
    from ltbench.runner import Place

    return Place(
        results=flags["results"],
        data_root=flags["data_root"],
        resume=flags["resume"],
        plugins=flags["plugins"],
        on_start=console.start,
        on_epoch=console.epoch,
        on_wait=console.say,
    )


def request_of(method: str, dataset: str, flags: dict[str, Any]) -> Request:
    """The run that flags ask for."""
    from ltbench.config import Request

    return Request(
        method=method,
        dataset=dataset,
        protocol=flags["protocol"],
        recipe=flags["recipe"],
        settings=settings_of(flags),
        config_file=flags["config_file"],
        tuned_file=flags["tuned_file"],
    )


def print_or_write(text: str, out: Path | None) -> None:
    """A table to the terminal, or to the file a user named."""
    if out is None:
        click.echo(text, nl=False)
        return
    from ltbench.files import storage_errors, write_text

    with storage_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    click.echo(f"Wrote {out}")
