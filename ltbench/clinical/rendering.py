"""An evaluation as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from ltbench.clinical.subgroups import SMALL_BELOW

__all__ = ["render", "render_over_seeds"]

Facts = Mapping[str, Any]
UNDEFINED = "-"
_PERCENT = ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "macro_auc", "ece")


def render(found: Facts) -> str:
    """The whole report; rates in percent, intervals in brackets, counts beside them."""
    sections = [
        _head(found),
        _overall(found),
        _against(found),
        _calibration(found["calibration"], found),
        _referral(found["referral"], found),
        *(_subgroup(fact, rows, found) for fact, rows in found["subgroups"].items()),
        *([_cost(found["cost"], found)] if found["cost"] else []),
        *(_prior(one, found) for one in found["priors"]),
    ]
    notes = "\n".join(f"- {note}" for note in (*found["notes"], _how(found)))
    return "\n\n".join([*sections, notes]) + "\n"


def render_over_seeds(summary: Mapping[str, Facts], evaluations: Sequence[Facts]) -> str:
    """Mean and standard deviation of every headline number, in its own unit (not percent)."""
    rows = [
        [name.replace("_", " "), _plain(one["mean"]), _plain(one["sd"])]
        for name, one in summary.items()
    ]
    first = evaluations[0]
    seeds = ", ".join(str(one["seed"]) for one in evaluations)
    title = (
        f"{first['label']} on {first['dataset']}, {first['protocol']}, test part: seeds {seeds}, "
        f"one decision {'an' if first['unit'] == 'image' else 'a'} {first['unit']}"
    )
    table = _table(["number", "mean", "sd"], rows)
    return f"{title}\n\n{table}\n\nsd: sample standard deviation over seeds (n - 1).\n"


def _head(found: Facts) -> str:
    part = "external test" if found["external"] else "test part"
    groups, noun = found["num_groups"], found["group_noun"]
    of_groups = "" if groups is None else f" of {_counted(groups, noun)}"
    lines = [
        f"{found['label']}, seed {found['seed']}: {found['dataset']}, {found['protocol']}, {part}",
        f"run: {found['run']}",
        f"{_counted(found['num_images'], 'image')}{of_groups}; one decision "
        f"{'an' if found['unit'] == 'image' else 'a'} {found['unit']}",
    ]
    if found["units"] is not None:
        units = found["units"]
        lines.append(
            f"{_counted(units['num_units'], units['noun'])}, {units['num_several']} with several "
            f"images (up to {units['largest']}); decided by {units['rule']}"
        )
    if found["temperature"] is not None:
        lines.append(f"logits divided by {found['temperature']:.4f}, fitted on validation")
    return "\n".join(lines)


def _overall(found: Facts) -> str:
    rows = [
        [name.replace("_", " "), _metric(name, value)] for name, value in found["metrics"].items()
    ]
    rows[0] = ["accuracy", _rate(found["accuracy"])]
    return f"Overall\n{_table(['metric', 'value'], rows)}"


def _against(found: Facts) -> str:
    reports = found["against_rest"]
    if isinstance(reports, Mapping):
        return f"Operating points: none, because {reports['refused']}"
    texts = []
    for one in reports:
        listed = ", ".join(one["classes"])
        name = listed if one["name"] == listed else f"{one['name']} ({listed})"
        title = (
            f"{name} against the rest: {one['num_positive']} against {one['num_negative']} "
            f"{found['unit']}s, AUC {_percent(one['auc'])}"
        )
        rows = [
            [
                f"{point['goal']} {_percent(point['wanted'])}",
                f"{point['threshold']:.4g}",
                *(_counts(point["validation"][name]) for name in ("sensitivity", "specificity")),
                *(_rate(point["test"][name]) for name in ("sensitivity", "specificity")),
                *(_percent(point["test"][name]["value"]) for name in ("ppv", "npv")),
            ]
            for point in one["points"]
        ]
        titles = ["wanted", "threshold", "val sen", "val spe", "test sensitivity"]
        titles += ["test specificity", "PPV", "NPV"]
        texts.append(f"{title}\n{_table(titles, rows)}" if rows else title)
    return "\n\n".join(texts)


def _calibration(errors: Facts, found: Facts) -> str:
    names = ("ece", "adaptive_ece", "classwise_ece", "overconfidence", "brier", "nll")
    scaled = errors["scaled"]
    rows = []
    for name in names:
        percent = not name.startswith(("brier", "nll"))
        states = [errors["as_given"], *([scaled] if scaled else [])]
        values = (_percent(one[name]) if percent else _plain(one[name]) for one in states)
        rows.append([name.replace("_", " "), *values])
    title = f"Calibration, {errors['num_bins']} bins"
    titles = ["error", "as given"]
    if scaled:
        fitted = errors["temperature"]
        titles.append(f"temperature {fitted['value']:.4f}")
        title += f"; temperature fitted on {fitted['num_images']} images of validation"
        if fitted["undetermined"]:
            title += ", which do not determine one"
    else:
        title += "; no validation part to fit a temperature on"
    bins = [
        [
            f"{one['low']:.2f} to {one['high']:.2f}",
            one["num_images"],
            _percent(one["confidence"]),
            _rate(one["accuracy"]),
        ]
        for one in errors["bins"]
    ]
    reliability = _table(["confidence in", f"{found['unit']}s", "mean", "accuracy"], bins)
    return f"{title}\n{_table(titles, rows)}\n\n{reliability}"


def _referral(found_referral: Facts, found: Facts) -> str:
    title = (
        f"Referral of the least confident ({found_referral['confidence']}): area under the "
        f"coverage-risk curve {_percent(found_referral['area'])}, "
        f"{_percent(found_referral['excess'])} above the best order; risk of all "
        f"{_percent(found_referral['risk_of_all'])}"
    )
    rows = []
    for point in found_referral["points"]:
        referred = {name: one["value"] for name, one in point["referred"].items()}
        most = max(referred, key=lambda name: referred[name])
        rows.append(
            [
                _percent(point["wanted"]),
                f"{point['threshold']:.4f}",
                _rate(point["coverage"]),
                _rate(point["risk"]),
                f"{most} {_percent(referred[most])}",
            ]
        )
    if not rows:
        return f"{title}\nNo thresholds: there is no validation part to take them on."
    titles = ["coverage wanted", "threshold", "coverage", "risk of the decided", "most referred"]
    return f"{title}\n{_table(titles, rows)}"


def _subgroup(fact: str, rows: Sequence[Facts], found: Facts) -> str:
    titles = [fact, f"{found['unit']}s", "groups", "classes", "accuracy", "balanced", "F1", "AUC"]
    lines = [
        [
            _marked(one),
            *(one["num_images"], one["num_groups"], len(one["classes"])),
            _rate(one["accuracy"]),
            *(_percent(one[metric]) for metric in ("balanced_accuracy", "macro_f1", "macro_auc")),
        ]
        for one in rows
    ]
    tables = [f"By {fact}; means are over the classes that occur\n{_table(titles, lines)}"]
    for number, positive in enumerate(rows[0]["positives"]):
        titles = [f"{positive['name']}, by {fact}", "positive", "AUC", "sensitivity", "specificity"]
        lines = [
            [_marked(one), *_positive_cells(one["positives"][number], one["num_images"])]
            for one in rows
        ]
        tables.append(_table(titles, lines))
    text = "\n\n".join(tables)
    if any(one["small"] for one in rows):
        text += f"\n* fewer than {SMALL_BELOW} {found['unit']}s"
    return text


def _positive_cells(positive: Facts, num_images: int) -> list[str]:
    rates = positive["rates"]
    return [
        f"{positive['num_positive']} of {num_images}",
        _percent(positive["auc"]),
        *(_rate(rates[rate]) if rates else UNDEFINED for rate in ("sensitivity", "specificity")),
    ]


def _marked(subgroup: Facts) -> str:
    return f"{subgroup['value']}{' *' if subgroup['small'] else ''}"


def _cost(cost: Facts, found: Facts) -> str:
    ways = {"most probable class": cost["most_probable"], "least expected cost": cost["least_cost"]}
    rows = [["all", cost["num_images"], *(_plain(way["mean_cost"]) for way in ways.values())]]
    rows += [
        [name, number, *(_plain(way["by_class"][name]) for way in ways.values())]
        for name, number in cost["support"].items()
    ]
    table = _table(["true class", f"{found['unit']}s", *ways], rows)
    return (
        f"Mean cost a {found['unit']}, by the rule of decision\n{table}\n"
        f"'{cost['constant']}' for everyone would cost {_plain(cost['constant_cost'])}."
    )


def _prior(prior: Facts, found: Facts) -> str:
    states = {
        "as measured": prior["as_measured"],
        "re-weighted": prior["reweighted"],
        "and logits adjusted": prior["adjusted"],
    }
    rows = [
        [name.replace("_", " "), *(_metric(name, state[name]) for state in states.values())]
        for name in prior["as_measured"]
    ]
    lines = [
        f"Under the prior {prior['name']}: {prior['num_images']} {found['unit']}s weigh as much as "
        f"{prior['effective_images']:.1f} of equal weight",
        _table(["metric", *states], rows),
    ]
    if prior["absent"]:
        lines.append(
            f"No test {found['unit']} of {', '.join(prior['absent'])}: "
            f"{_percent(prior['absent_share'])} % of the prior were given to the other classes."
        )
    return "\n".join(lines)


def _how(found: Facts) -> str:
    return (
        f"Rates in percent; intervals of {100 * found['level']:g} %: exact binomial "
        "(Clopper-Pearson), where groups have several images on the effective number of images "
        "(Korn-Graubard). Thresholds are taken on validation, and intervals hold for them as they "
        "are."
    )


def _rate(one: Facts) -> str:
    if one["value"] is None:
        return UNDEFINED
    interval = f"[{_percent(one['low'])}, {_percent(one['high'])}]"
    return f"{_percent(one['value'])} {interval} {one['hits']}/{one['total']}"


def _counts(one: Facts) -> str:
    return f"{_percent(one['value'])} {one['hits']}/{one['total']}"


def _metric(name: str, value: float | None) -> str:
    return _percent(value) if name in _PERCENT else _plain(value)


def _percent(value: float | None) -> str:
    return UNDEFINED if value is None else f"{100 * value:.1f}"


def _plain(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.4f}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    alignment = ("left", *["right"] * (len(titles) - 1))
    return tabulate(rows, headers=titles, colalign=alignment, disable_numparse=True)
