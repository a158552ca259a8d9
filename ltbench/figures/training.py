"""Training curves: losses and validation by epoch, of one run or of all seeds of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from ltbench.figures.canvas import (
    COLUMN,
    GREY,
    Series,
    axes_at,
    label_y,
    legend_above,
    log_ticks,
    new_figure,
    series,
)
from ltbench.figures.history import LOSS, MOST_TERMS, VALIDATION, History, StageSpan
from ltbench.figures.names import fitted, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["draw_histories", "draw_history"]

_LEFT, _RIGHT, _BOTTOM, _TOP = 0.5, 0.08, 0.33, 0.3
_PANEL, _BETWEEN = 1.15, 0.27
_LOG_FROM: Final = 50.0  # largest / smallest loss

Panel = Callable[["Axes"], None]


def draw_history(history: History) -> Figure:
    """Losses, what else the method logs, validation: a panel each, epochs below."""
    panels: list[Panel] = [lambda axes: _losses(axes, history)]
    if len(history.terms) > 1:
        panels.append(lambda axes: _other_terms(axes, history))
    if history.is_validated:
        panels.append(lambda axes: _validation(axes, history))
    return _panels(panels, history.stages, len(history.epochs), history.selected)


def draw_histories(histories: Sequence[History]) -> Figure:
    """Training loss and validation macro F1 of several seeds: each thin, their mean bold."""
    total = max(len(history.epochs) for history in histories)
    longest = next(history for history in histories if len(history.epochs) == total)
    panels: list[Panel] = [
        lambda axes: _seeds(axes, [_padded(h.terms[LOSS], total) for h in histories], loss=True)
    ]
    if any(history.is_validated for history in histories):

        def validation(axes: Axes) -> None:
            name = next(iter(VALIDATION))
            values = [100 * _padded(h.validation[name], total) for h in histories]
            _seeds(axes, values, loss=False)
            for history, line in zip(histories, values, strict=True):
                if history.selected is not None:
                    at = history.selected - 1
                    axes.plot([at + 1], [line[at]], "o", color="#000000", markersize=4)

        panels.append(validation)
    return _panels(panels, longest.stages, total, None)


def _panels(
    panels: Sequence[Panel], stages: Sequence[StageSpan], total: int, selected: int | None
) -> Figure:
    from matplotlib.ticker import MaxNLocator

    num = len(panels)
    figure = new_figure(COLUMN, _BOTTOM + num * _PANEL + (num - 1) * _BETWEEN + _TOP)
    for place, panel in enumerate(panels):
        bottom = _BOTTOM + (num - 1 - place) * (_PANEL + _BETWEEN)
        axes = axes_at(figure, _LEFT, bottom, COLUMN - _LEFT - _RIGHT, _PANEL)
        axes.set_xlim(0.5, total + 0.5)
        for stage in stages[1:]:
            axes.axvline(stage.first - 0.5, color=GREY, linewidth=0.8)
        if selected is not None:
            _reported(axes, selected)
        axes.grid(visible=True)
        panel(axes)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        if place < num - 1:
            axes.tick_params(labelbottom=False)
    _name_stages(figure.axes[-1], stages, total)
    figure.axes[-1].set_xlabel("epoch (over all stages)" if len(stages) > 1 else "epoch")
    return figure


def _reported(axes: Axes, epoch: int) -> Line2D:
    return axes.axvline(epoch, color="#000000", linewidth=0.8, linestyle=(0, (2, 1.5)))


def _name_stages(axes: Axes, stages: Sequence[StageSpan], total: int) -> None:
    """Below the last panel's upper edge, within each stage that is wide enough."""
    if len(stages) == 1:
        return
    inches = (COLUMN - _LEFT - _RIGHT) / total
    for stage in stages:
        room = inches * (stage.last - stage.first + 1)
        (name,) = shortened([stage.name], max(room - 0.05, 0.3))
        middle = (stage.first + stage.last) / 2
        axes.text(
            *(middle, 0.03),
            name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            color=GREY,
            rotation=0 if room > 0.3 else 90,
        )


def _losses(axes: Axes, history: History) -> None:
    lines = [(history.terms[LOSS], "training loss")]
    more = []
    if history.selected is not None:
        more.append((_reported(axes, history.selected), "reported epoch"))
    if np.isfinite(history.nll).any():
        lines.append((history.nll, "validation NLL"))
    _lines(axes, history.epochs, lines, more)
    _scale(axes, [values for values, _ in lines], "loss")


def _other_terms(axes: Axes, history: History) -> None:
    names = list(history.terms)[1 : 1 + MOST_TERMS]
    labels = fitted(names, COLUMN - 0.15 - 0.36 * len(names))
    _lines(axes, history.epochs, list(zip((history.terms[n] for n in names), labels, strict=True)))
    label_y(axes, "logged by the method", _LEFT)


def _validation(axes: Axes, history: History) -> None:
    lines = [(100 * history.validation[name], label) for name, label in VALIDATION.items()]
    _lines(axes, history.epochs, lines)
    axes.set_ylim(0, 103)
    label_y(axes, "validation (%)", _LEFT)


def _lines(
    axes: Axes,
    epochs: np.ndarray,
    lines: Sequence[tuple[np.ndarray, str]],
    more: Sequence[tuple[Line2D, str]] = (),
) -> None:
    handles = []
    for number, (values, _) in enumerate(lines):
        look: Series = series(number)
        known = np.isfinite(values)
        every = max(1, int(known.sum()) // 6)
        (line,) = axes.plot(
            epochs,
            np.where(known, values, np.nan),
            color=look.color,
            linestyle=look.linestyle,
            marker=look.marker,
            markevery=(number * every // 3, every),
            markerfacecolor="white" if number % 2 else look.color,
            markeredgewidth=0.7,
            markersize=3,
            linewidth=0.9,
        )
        handles.append(line)
    handles += [handle for handle, _ in more]
    legend_above(axes, handles, [label for _, label in (*lines, *more)])


def _seeds(axes: Axes, lines: Sequence[np.ndarray], *, loss: bool) -> None:
    epochs = np.arange(1, len(lines[0]) + 1)
    handles = [axes.plot(epochs, values, color="#9a9a9a", linewidth=0.6)[0] for values in lines][:1]
    table = np.stack(lines)
    complete = np.isfinite(table).all(axis=0)
    mean = np.full(table.shape[1], np.nan)
    mean[complete] = table[:, complete].mean(axis=0)
    handles += axes.plot(epochs, mean, color="#000000", linewidth=1.3)
    legend_above(axes, handles, ["each seed", "mean"])
    if loss:
        _scale(axes, lines, "training loss")
    else:
        axes.set_ylim(0, 103)
        label_y(axes, "val. macro F1 (%)", _LEFT)


def _scale(axes: Axes, lines: Sequence[np.ndarray], what: str) -> None:
    """Logarithmic where values are positive and far apart; the label says so."""
    found = np.concatenate(lines)
    found = found[np.isfinite(found)]
    wide = found.size > 0 and found.min() > 0 and found.max() / found.min() > _LOG_FROM
    if wide:
        low, high = float(found.min()) / 1.3, float(found.max()) * 1.3
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        log_ticks(axes.yaxis, low, high)
    label_y(axes, f"{what} (nats{', log' if wide else ''})", _LEFT)


def _padded(values: np.ndarray, total: int) -> np.ndarray:
    return np.concatenate([values, np.full(total - len(values), np.nan)])
