"""From layers to one checked, frozen configuration and its digest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, ValidationError
from pydantic_core import to_jsonable_python

from ltbench.composition import COMPOSITIONS
from ltbench.config import (
    Request,
    dataset_config,
    load_recipe,
    preset_settings,
    rebuild,
    recipe_names,
    resolve,
)
from ltbench.errors import UsageError
from ltbench.explain import allowed, searched
from ltbench.files import canonical_json, sha256_hex
from ltbench.labels import changes
from ltbench.method import MethodConfig
from ltbench.registry import DATASETS, METHODS
from ltbench.run_config import RunConfig
from ltbench.settings import flat, nested, parse_assignments

ECL = Request("ecl", "digits_lt")


def configured(**settings: Any) -> RunConfig:
    return resolve(replace(ECL, settings={k.replace("__", "."): v for k, v in settings.items()}))


def refused(**settings: Any) -> list[str]:
    """The lines of the message that refuses these settings, without its head."""
    with pytest.raises(UsageError) as caught:
        configured(**settings)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{len(lines)} problem{'s' * (len(lines) > 1)} in the configuration:"
    return [line.strip() for line in lines]


def digest(config: RunConfig) -> str:
    return sha256_hex(canonical_json(config.hashed()).encode())


def test_layers_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer sets `optimizer.momentum` and all above it; the last that speaks wins."""
    recipe, tuned, config = (tmp_path / f"{name}.yaml" for name in ("recipe", "tuned", "config"))
    base = load_recipe("digits")
    del base["optimizer"]["momentum"]
    recipe.write_text(yaml.safe_dump(base))
    tuned.write_text("method: {temperature: 0.3, contrastive_weight: 0.3}\n")
    config.write_text("method.temperature: 0.4\n")
    request = Request("ecl", "digits_lt", recipe=str(recipe))
    assert resolve(request).optimizer.momentum == 0.9
    assert resolve(request).method.temperature == 0.1
    base["optimizer"]["momentum"] = 0.8
    base["method"] = {"temperature": 0.2, "embedding_dim": 16}
    recipe.write_text(yaml.safe_dump(base))
    assert resolve(request).optimizer.momentum == 0.8
    assert resolve(request).method.temperature == 0.2
    monkeypatch.setattr(METHODS["ecl"], "defaults", {"method.embedding_dim": 32, "epochs": 7})
    assert resolve(request).method.embedding_dim == 32
    assert resolve(request).epochs == 7
    request = replace(request, method="ecl@paper_losses")
    assert resolve(request).method.temperature == 0.01
    request = replace(request, tuned_file=tuned)
    assert resolve(request).method.temperature == 0.3
    request = replace(request, config_file=config)
    assert resolve(request).method.temperature == 0.4
    request = replace(request, settings={"method.temperature": 0.5})
    found = resolve(request).method
    assert (found.temperature, found.contrastive_weight, found.denominator) == (0.5, 0.3, "paper")
    assert found.embedding_dim == 32


def test_recipe_and_protocol_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("recipe: cifar-lt\nprotocol: held-out\nepochs: 3\n")
    config = resolve(replace(ECL, config_file=file))
    assert (config.recipe, config.protocol, config.epochs) == ("cifar_lt", "held_out", 3)
    assert resolve(replace(ECL, config_file=file, recipe="digits")).recipe == "digits"


def test_the_data_set_names_the_default_recipe() -> None:
    assert resolve(ECL).recipe == "digits"
    assert resolve(Request("ce", "fashion_mnist_lt")).recipe == "fashion"


def test_settings_of_a_mapping_are_joined_and_lists_replaced() -> None:
    config = configured(views={"contrast": []}, schedule__warmup=0)
    assert config.views["contrast"] == ()
    assert len(config.views["classify"]) == 1
    assert (config.schedule.name, config.schedule.warmup) == ("cosine", 0)


@pytest.mark.parametrize("dataset", ["digits_lt", "fashion_mnist_lt"])
@pytest.mark.parametrize("method", METHODS.names())
def test_every_recipe_fits_every_method(method: str, dataset: str) -> None:
    for recipe in recipe_names():
        config = resolve(Request(method, dataset, recipe=recipe))
        assert (config.method_name, config.dataset_name, config.recipe) == (method, dataset, recipe)
        assert load_recipe(recipe, with_summary=True)["summary"]


@pytest.mark.parametrize("method", METHODS.names())
def test_every_preset_resolves_and_acts(method: str) -> None:
    plugin = METHODS[method]
    for name in {**plugin.presets, **plugin.ablations, **COMPOSITIONS}:
        config = resolve(Request(f"{method}@{name}", "digits_lt"))
        assert config.method_label == f"{method}@{name}"
        stored = flat(config.model_dump(mode="json"))
        for key, value in preset_settings(plugin, name).items():
            if not key.startswith("views."):  # views are stored with every default
                assert stored[key] == to_jsonable_python(value), key


def test_presets_are_joined_by_plus() -> None:
    config = resolve(Request("ce@sqrt+mixup", "digits_lt"))
    assert (config.sampler, config.mix.name) == ("sqrt", "mixup")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request("elc", "digits_lt"), "Did you mean 'ecl'"),
        (Request("ecl", "digit_lt"), "Did you mean 'digits_lt'"),
        (Request("ecl@papr", "digits_lt"), "Unknown preset of ecl 'papr'. Did you mean 'paper'"),
        (
            Request("ecl", "digits_lt", protocol="held"),
            "protocol of digits_lt 'held'. Did you mean",
        ),
        (Request("ecl", "digits_lt", recipe="digit"), "Unknown recipe 'digit'. Did you mean"),
        (Request("ecl", "digits_lt", recipe="no/such.yaml"), "Cannot read the settings file"),
    ],
)
def test_unknown_names_are_answered(request_: Request, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(request_)
    assert said in str(caught.value)


def test_one_spelling_of_names_is_stored() -> None:
    """A hyphen must not make another folder of the same run."""
    plain = Request("ecl@no_cycle", "digits_lt", protocol="held_out", recipe="cifar_lt")
    other = Request("ecl@no-cycle", "digits-lt", protocol="held-out", recipe="cifar-lt")
    assert resolve(plain) == resolve(other)


def test_a_recipe_file_is_named_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    files = [tmp_path / "mine.yaml", tmp_path / "below" / "mine.yaml"]
    for file in files:
        file.write_text("summary: mine\n" + yaml.safe_dump(load_recipe("digits")))
    first, second = (resolve(replace(ECL, recipe=str(file))) for file in files)
    assert first.recipe == "mine.yaml"
    assert digest(first) == digest(second)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("optimizer.lr=1e-3", ("optimizer", "lr"), 0.001),
        ("optimizer.lr=1", ("optimizer", "lr"), 1.0),
        ("optimizer.nesterov=yes", ("optimizer", "nesterov"), True),
        ("optimizer.clip-norm=null", ("optimizer", "clip_norm"), None),
        ("precision=32", ("precision",), "32"),
        ("method.proxies=3", ("method", "proxies"), 3),
        ("method.proxies=hybrid", ("method", "proxies"), "hybrid"),
        ("schedule.milestones=[0.5, 0.75]", ("schedule", "milestones"), (0.5, 0.75)),
    ],
)
def test_values_are_read_as_they_were_meant(text: str, path: tuple[str, ...], value: Any) -> None:
    found: Any = resolve(replace(ECL, settings=parse_assignments([text])))
    for part in path:
        found = getattr(found, part)
    assert (found, type(found)) == (value, type(value))


def test_exponents_in_a_file_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("optimizer:\n  lr: 1e-3\n  weight_decay: 5E-5\n")
    optimizer = resolve(replace(ECL, config_file=file)).optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (0.001, 0.00005)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"optimizer__lr": True}, "optimizer.lr: expected number > 0; got true (YAML reads yes"),
        ({"method__embedding_dim": False}, "method.embedding_dim: expected integer 2..4096; got f"),
        ({"epochs": "many"}, "epochs: expected integer >= 1; got 'many'"),
        ({"epochs": 0}, "epochs: expected integer >= 1; got 0"),
        ({"epochs": 1.5}, "epochs: expected integer >= 1; got 1.5"),
        ({"epochs": None}, "epochs: expected integer >= 1; got null"),
        ({"optimizer__momentum": 1}, "optimizer.momentum: expected number >= 0, < 1; got 1"),
        ({"optimizer__lr": float("nan")}, "optimizer.lr: expected number > 0; got nan"),
        ({"optimizer__clip_norm": -1}, "optimizer.clip_norm: expected number > 0 | null; got -1"),
        ({"select": "acc"}, "select: expected val.accuracy | val.macro_f1 | val.balanced_accuracy"),
        ({"precision": 16}, "precision: expected 32 | bf16 | auto; got '16'"),
        ({"method__proxies": "few"}, "method.proxies: expected hybrid | integer 1..100; got 'few'"),
        ({"method__proxies": 0}, "method.proxies: expected hybrid | integer 1..100; got 0"),
        ({"seed": -1}, "seed: expected integer >= 0, < 9223372036854775808; got -1"),
        ({"machine__threads": 0}, "machine.threads: expected integer >= 1 | null; got 0"),
        ({"dataset__imbalance": 0.01}, "dataset.imbalance: expected the ratio of the largest"),
        ({"dataset__imbalance": 1e6}, "dataset.imbalance: expected number 1..10000; got 1000000"),
        ({"optimizer": "sgd"}, "optimizer: expected settings below it, such as optimizer.name"),
        ({"views__classify": [{"hflip": {"p": 2}}]}, "views.classify.0.p: input should be less"),
        ({"views__classify": [{"hflp": {}}]}, "views.classify.0: unknown transform 'hflp'. Did"),
        ({"sampler": "balancd"}, "Unknown sampler 'balancd'. Did you mean 'balanced'?"),
        ({"batch_size": 33, "optimizer__accumulate": 2}, "batch_size 33 is not divisible by"),
        ({"batch_size": 33, "machine__devices": 2}, "batch_size 33 is not divisible by machine"),
        ({"method__stage_two_start": 0.9}, "method: stage_two_start must not be greater than"),
    ],
)
def test_wrong_values_are_refused_in_one_line(settings: dict[str, Any], line: str) -> None:
    found = refused(**settings)
    assert len(found) == 1, found
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("epoch", "Did you mean 'epochs'?"),
        ("method__temprature", "Did you mean 'method.temperature'?"),
        ("optimizer__wieght_decay", "Did you mean 'optimizer.weight_decay'?"),
        ("dataset__imbalence", "Did you mean 'dataset.imbalance'?"),
        ("machine__thread", "Did you mean 'machine.threads'?"),
        ("lr", "Did you mean 'optimizer.lr'?"),
        ("temperature", "Did you mean 'method.temperature'?"),
    ],
)
def test_unknown_settings_are_answered(name: str, hint: str) -> None:
    assert refused(**{name: 1}) == [f"{name.replace('__', '.')}: no such setting. {hint}"]


def test_a_setting_like_no_other_has_no_hint() -> None:
    assert refused(xyzzy=1) == ["xyzzy: no such setting."]


def test_all_problems_in_one_message() -> None:
    found = refused(
        epochs=0, optimizer__lr=True, method__temprature=1, dataset__imbalance=0.5, select="best"
    )
    assert [line.partition(":")[0] for line in sorted(found)] == [
        "dataset.imbalance",
        "epochs",
        "method.temprature",
        "optimizer.lr",
        "select",
    ]
    assert len(refused(batch_size=33, optimizer__accumulate=2, sampler="odd")) == 2


def test_missing_settings_say_where_they_belong(tmp_path: Path) -> None:
    file = tmp_path / "bare.yaml"
    file.write_text("views: {eval: []}\n")
    with pytest.raises(UsageError) as caught:
        resolve(replace(ECL, recipe=str(file)))
    assert "epochs: missing. Give it in the recipe or with --set epochs=VALUE." in str(caught.value)
    assert "optimizer: missing." in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"epochs: [1", "is not valid YAML"),
        (b"\xff\xfe\x00epochs", "is not valid YAML"),
        (b"- epochs\n", "holds a list; expected `key: value`"),
        (b"epochs\n", "holds a str; expected `key: value`"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        resolve(replace(ECL, config_file=file))
    assert str(file) in str(caught.value)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.touch()
    assert resolve(replace(ECL, config_file=file)) == resolve(ECL)


@pytest.mark.parametrize("text", ["epochs", "=3", " =3", "epochs=[1"])
def test_malformed_assignments_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--set"):
        parse_assignments([text])


def test_settings_of_a_data_set_alone() -> None:
    digits = DATASETS["digits_lt"]
    assert dataset_config(digits, {"dataset": {"imbalance": 5}}).imbalance == 5
    with pytest.raises(UsageError, match=r"imbalence: no such setting\. Did you mean 'dataset\.im"):
        dataset_config(digits, {"dataset": {"imbalence": 5}})


@pytest.mark.parametrize("dataset", ["digits_lt", "fashion_mnist_lt"])
@pytest.mark.parametrize("method", ["ce", "ecl", "ecl@paper", "ce@cutmix"])
def test_stored_and_rebuilt_is_the_same(method: str, dataset: str) -> None:
    for recipe in recipe_names():
        config = resolve(Request(method, dataset, recipe=recipe, settings={"seed": 2**62 + 1}))
        again = rebuild(json.loads(json.dumps(config.model_dump(mode="json"))))
        assert again == config
        assert digest(again) == digest(config)
        assert again.model_dump(mode="json") == config.model_dump(mode="json")


def test_a_stored_config_serves_as_a_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    config = configured(optimizer__lr=0.00001, seed=4)
    file.write_text(json.dumps(config.model_dump(mode="json")))
    assert resolve(replace(ECL, config_file=file)) == config
    with pytest.raises(UsageError, match=r"method_name: the settings say 'ecl', the command 'ce'"):
        resolve(Request("ce", "digits_lt", config_file=file))


OTHER_VALUES: dict[str, Any] = {
    "init_seed": 3,
    "loader_seed": 4,
    "init_from": "0123abcd/seed-0",
    "machine.device": "cpu",
    "backbone": "resnet20_cifar",
    "weights": "none.pt",
    "precision": "bf16",
    "normalise": "none",
    "sampler": "sqrt",
    "select": "last",
    "feedback_split": "inner",
    "optimizer.name": "adamw",
    "optimizer.clip_norm": 3.0,
    "schedule.name": "step",
    "schedule.milestones": [0.5],
    "method.proxies": 2,
    "method.classifier_loss": "ce",
    "method.denominator": "paper",
    "method.normaliser": "batch",
    "mix.name": "mixup",
    "reweight.name": "inverse",
    "schedule.gamma": 0.5,
    "render": "host",
    "machine.workers": 2,
    "views.classify": [],
    "views.contrast": [],
    "views.strong": [],
    "views.eval": [{"hflip": {"p": 0.5}}],
}
NAMES = {"method_name", "preset", "dataset_name", "protocol", "recipe", "tuned"}


def another(key: str, value: Any) -> Any:
    """A valid value other than `value`."""
    if key in OTHER_VALUES:
        return OTHER_VALUES[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value * 2 or 2
    return value * 0.5 if value else 0.25


def test_every_setting_but_seed_and_machine_is_in_the_digest() -> None:
    base = resolve(ECL)
    for key, value in flat(base.model_dump(mode="json")).items():
        if key in NAMES:
            continue
        config = resolve(replace(ECL, settings={key: another(key, value)}))
        assert config != base, key
        is_place = key == "seed" or key.startswith("machine.")
        assert (digest(config) == digest(base)) == is_place, key


@pytest.mark.parametrize(
    "other",
    [
        Request("ce", "digits_lt"),
        Request("ecl@full", "digits_lt"),
        Request("ecl", "fashion_mnist_lt", recipe="digits"),
        Request("ecl", "digits_lt", recipe="cifar_lt"),
    ],
)
def test_names_are_in_the_digest(other: Request) -> None:
    assert digest(resolve(other)) != digest(resolve(ECL))
    published = Request("ce", "fashion_mnist_lt", protocol="published")
    assert digest(resolve(published)) != digest(resolve(replace(published, protocol="held_out")))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("dataset.imbalance", [20, 20.0, "20", "2e1"]),
        ("optimizer.lr", [0.001, "1e-3", "0.0010"]),
        ("method.embedding_dim", [64, 64.0, "64"]),
        ("optimizer.nesterov", [True, "yes", 1]),
        ("precision", [32, "32"]),
    ],
)
def test_spellings_of_a_value_share_a_digest(key: str, values: list[Any]) -> None:
    digests = {digest(resolve(replace(ECL, settings={key: value}))) for value in values}
    assert len(digests) == 1


def test_configs_are_frozen() -> None:
    config = resolve(ECL)
    for model, name in [(config, "epochs"), (config.optimizer, "lr"), (config.method, "proxies")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, name, 1)


def test_changes_name_what_the_user_gave(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("optimizer: {lr: 0.5}\nrecipe: digits\nmachine: {threads: 1}\n")
    request = replace(ECL, config_file=file, settings={"method.proxies": 2, "seed": 3})
    assert changes(request) == ["method.proxies=2", "optimizer.lr=0.5"]


def test_nested_and_flat_are_inverses() -> None:
    dotted = {"a.b": 1, "a.c.d": [1], "e": {}, "f": None}
    assert nested(dotted) == {"a": {"b": 1, "c": {"d": [1]}}, "e": {}, "f": None}
    assert flat(nested(dotted)) == dotted


class Words(MethodConfig):
    """One field of each kind."""

    share: float = Field(0.5, gt=0, lt=1)
    count: int = Field(1, ge=1)
    names: tuple[str, ...] = ()
    maybe: int | None = Field(None, ge=2, le=3)


def test_kinds_in_words() -> None:
    found = {name: allowed(field) for name, field in Words.model_fields.items()}
    assert found == {
        "share": "number > 0, < 1",
        "count": "integer >= 1",
        "names": "list of text",
        "maybe": "integer 2..3 | null",
    }


def test_search_spaces_in_words() -> None:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    assert searched(FloatDistribution(0.01, 1.0, log=True)) == "0.01 .. 1 (log)"
    assert searched(FloatDistribution(0.0, 1.0, step=0.25)) == "0 .. 1 step 0.25"
    assert searched(IntDistribution(1, 9, step=2)) == "1 .. 9 step 2"
    assert searched(IntDistribution(1, 8)) == "1 .. 8"
    assert searched(CategoricalDistribution(["a", None, True])) == "a | null | true"
