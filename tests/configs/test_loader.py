"""Settings: where values come from, what wins, and what a wrong one is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from configs import loader
from configs.errors import ConfigError, UserError
from configs.loader import json_schema, load_settings, preset_names, resolved_yaml, value_said
from configs.schema import RunSettings, TrainSettings


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def problems(config: str | Path | None = None, *overrides: str, **flags: Any) -> list[str]:
    """Lines of the error that these sources raise."""
    with pytest.raises(ConfigError) as error:
        load_settings(config, overrides, flags)
    return str(error.value).splitlines()


class TestSources:
    def test_no_config_is_the_embedded_preset(self) -> None:
        assert load_settings(None) == load_settings("embedded")

    def test_an_empty_file_is_the_schema_s_defaults(self, write: Any) -> None:
        assert load_settings(write("# nothing yet\n")) == RunSettings()

    def test_options_win_over_the_file_and_overrides_over_options(self, write: Any) -> None:
        path = write("train: {lr: 1, batch: 1, epochs: 20}")
        settings = load_settings(path, ["train.lr=3"], {"train.lr": 2, "train.batch": 2})
        assert (settings.train.lr, settings.train.batch, settings.train.epochs) == (3, 2, 20)

    def test_an_option_that_was_not_given_changes_nothing(self, write: Any) -> None:
        assert load_settings(write("seed: 7"), flags={"seed": None}).seed == 7

    def test_of_two_overrides_the_last_wins(self) -> None:
        assert load_settings(None, ["seed=1", "seed=2"]).seed == 2

    def test_an_override_may_hold_a_list_or_a_group(self) -> None:
        settings = load_settings(None, ["search.axes=[s, t]", "train={lr: 0.5, batch: 3}", "search.factors.s=1.2"])
        assert settings.search.axes == ("s", "t")
        assert (settings.train.lr, settings.train.batch) == (0.5, 3)
        assert settings.train.epochs == load_settings(None).train.epochs
        assert settings.search.factors == {"s": 1.2}

    def test_an_empty_override_takes_a_value_back(self, write: Any) -> None:
        assert load_settings(write("data: {path: videos}"), ["data.path="]).data.path is None

    @pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2E+1", 20.0), ("1.5e-2", 1.5e-2), (".5e1", 5.0)])
    def test_exponents_without_a_dot_are_numbers(self, text: str, value: float, write: Any) -> None:
        """YAML 1.1 reads 1e-3 as text, YAML 1.2 as a number."""
        assert load_settings(None, [f"train.lr={text}"]).train.lr == value
        assert load_settings(write(f"train: {{lr: {text}}}")).train.lr == value


class TestDefaults:
    """What stands in where nothing is said."""

    def test_they_win_over_the_preset_that_nobody_asked_for(self) -> None:
        settings = load_settings(None, preset="embedded-r2plus1d", defaults={"clips.resize": None, "train.lr": 2})
        expected = load_settings("embedded-r2plus1d", ["clips.resize=", "train.lr=2"])
        assert settings == expected
        assert load_settings("embedded-r2plus1d").clips.resize is not None

    @pytest.mark.parametrize("said", ["file", "extended", "option", "override"])
    def test_whatever_is_said_wins_over_them(self, said: str, write: Any) -> None:
        write("train: {lr: 3}", "base.yaml")
        config = {"file": "train: {lr: 3}", "extended": "extends: base.yaml"}.get(said)
        settings = load_settings(
            write(config) if config else None,
            ["train.lr=3"] if said == "override" else [],
            {"train.lr": 3 if said == "option" else None},
            defaults={"train.lr": 2, "train.batch": 5},
        )
        assert (settings.train.lr, settings.train.batch) == (3, 5)

    def test_a_preset_that_was_asked_for_wins_over_them(self) -> None:
        assert load_settings("embedded", preset="embedded-reid", defaults={"train.lr": 2}) == load_settings("embedded")

    def test_a_default_that_cannot_be_used_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="seed is 'x', but must be a whole number"):
            load_settings(None, defaults={"seed": "x"})


class TestValueSaid:
    """What was said of one setting."""

    def test_the_last_word_counts_and_presets_that_nobody_asked_for_do_not(self, write: Any) -> None:
        path = write("extends: embedded\ntrain: {lr: 1}")
        assert value_said("train.lr", path) == 1
        assert value_said("train.lr", path, ["train.lr=2", "train={lr: 3}"]) == 3
        assert value_said("data.source", path) == "moving-digits"
        assert value_said("data.source", None) is None

    @pytest.mark.parametrize("override", ["data=", "data=3", "data.source", "data.source.name=3"])
    def test_what_makes_no_sense_is_left_to_be_reported(self, override: str) -> None:
        assert value_said("data.source.letter", None, [override]) is None


class TestExtends:
    def test_a_file_starts_from_a_preset(self, write: Any) -> None:
        settings = load_settings(write("extends: kinetics-slowfast\ntrain: {lr: 0.5}"))
        parent = load_settings("kinetics-slowfast")
        assert settings == parent.model_copy(update={"train": parent.train.model_copy(update={"lr": 0.5})})

    def test_a_path_is_relative_to_the_file_that_names_it(self, write: Any, tmp_path: Path) -> None:
        (tmp_path / "base").mkdir()
        write("seed: 1\ntrain: {batch: 5}", "base/root.yaml")
        write("extends: root.yaml\nseed: 2", "base/middle.yaml")
        settings = load_settings(write("extends: base/middle.yaml\ntrain: {lr: 0.5}"))
        assert (settings.seed, settings.train.batch, settings.train.lr) == (2, 5, 0.5)

    def test_a_cycle_is_an_error_that_names_its_files(self, write: Any) -> None:
        first = write("extends: second.yaml", "first.yaml")
        second = write("extends: ./first.yaml", "second.yaml")
        (line,) = problems(first)
        assert line.startswith(f"{first} extends {second} extends {first}: ")

    def test_an_unknown_start_names_the_file(self, write: Any) -> None:
        path = write("extends: kinetics-slowfst")
        (line,) = problems(path)
        assert line.startswith(f"{path}: extends is 'kinetics-slowfst', but must be ")
        assert line.endswith("did you mean kinetics-slowfast?")


class TestFiles:
    def test_an_unknown_preset(self) -> None:
        (line,) = problems("embeded")
        assert line == (
            f"config is 'embeded', but must be an existing YAML file or a preset: {', '.join(preset_names())}; "
            "did you mean embedded?"
        )

    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            ("train:\n  lr: 1\n  batch: 2\n  lr: 3\n", 4, "key 'lr' appears twice"),
            ("seed: 1\ntrain: [\n", 3, "expected the node content"),
            ("train:\n\tlr: 1\n", 2, r"found character '\t'"),
            ("seed: 1\n---\nseed: 2\n", 2, "found another document"),
            ("seed: !!python/object/apply:os.getcwd []\n", 1, "could not determine a constructor"),
        ],
    )
    def test_yaml_errors_name_file_and_line(self, text: str, line: int, words: str, write: Any) -> None:
        path = write(text)
        (message,) = problems(path)
        assert message.startswith(f"{path}:{line}: ")
        assert words in message

    def test_a_merge_key_repeats_nothing(self, write: Any) -> None:
        settings = load_settings(write("teacher: {train: &recipe {lr: 1, batch: 2}}\ntrain: {<<: *recipe, lr: 3}"))
        assert (settings.teacher.train.lr, settings.train.lr, settings.train.batch) == (1, 3, 2)

    @pytest.mark.parametrize("text", ["[1, 2]", "text", "0"])
    def test_a_file_holds_groups(self, text: str, write: Any) -> None:
        path = write(text)
        assert problems(path) == [
            f"{path} holds {yaml.safe_load(text)!r}, but must hold groups of settings, such as `train:`"
        ]

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "video.yaml"
        path.write_bytes(b"\xff\xfe\x00")
        (line,) = problems(path)
        assert line.startswith(f"{path} can't be read: ")


class TestErrors:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("train.bach=3", "`train.bach` is not a key of TrainSettings; did you mean `train.batch`?"),
            ("teacher.train.bach=3",
             "`teacher.train.bach` is not a key of TrainSettings; did you mean `teacher.train.batch`?"),
            ("data={1: 2}", "`data.1` is not a key of DataSettings; its keys are source, path, split, max_quarantined"),
            ("search.factors.x=2", "`search.factors.x` is not a key of search.factors; its keys are s, t, f, c, l"),
            ("network.backbone=slowfst",
             "network.backbone is 'slowfst', but must be one of slowfast, r2plus1d, reid; did you mean slowfast?"),
            ("data.split=4", "data.split is 4, but must be one of 1, 2, 3"),
            ("search.axes=[s, q]", "search.axes.1 is 'q', but must be one of s, t, f, c, l"),
            ("search.axes=[s, s]", "search.axes is ['s', 's'], but must name each axis once; it needs at least one"),
            ("train.warmup_epochs=5", "train.warmup_epochs is 5, but must be below epochs (4); lower it"),
            ("train.lr=fast", "train.lr is 'fast', but must be a number"),
            ("train.lr=-1", "train.lr is -1, but must be greater than 0"),
            ("train.epochs=2.5", "train.epochs is 2.5, but must be a whole number"),
            ("clips.flip=7", "clips.flip is 7, but must be true or false"),
            ("clips.resize=big", "clips.resize is 'big', but must be a whole number or a list"),
            ("clips.train_short_side=[256]", "clips.train_short_side is [256], but must be a longer list"),
            ("clips.train_short_side=[1, 2, 3]",
             "clips.train_short_side is [1, 2, 3], but must be a list of at most 2 values"),
            ("data.path=3", "data.path is 3, but must be a path"),
            ("runtime.name=a/b", "runtime.name is 'a/b', but must be text that matches ^[A-Za-z0-9][A-Za-z0-9._-]*$"),
            ("train=3", "train is 3, but must be a group of settings"),
            ("train.lr.x=1", "train.lr is {'x': 1}, but must be a number"),
            ("train.lr", "override is 'train.lr', but must be path=value, such as train.lr=0.1"),
            ("=1", "override is '=1', but must be path=value, such as train.lr=0.1"),
        ],
    )  # fmt: skip
    def test_each_says_where_what_and_what_instead(self, override: str, message: str) -> None:
        assert problems(None, override) == [message]

    def test_all_are_reported_at_once(self, write: Any) -> None:
        path = write("seed: -1\nnetwork: {widht: 2}")
        with pytest.raises(UserError) as error:
            load_settings(path, ["train.lr", "runtime.name=[", "data.split=4"], {"network.backbone": "r3d"})
        starts = ["override is 'train.lr'", "override 'runtime.name=['", "seed is -1", "network.backbone is 'r3d'",
                  "`network.widht`", "data.split is 4"]  # fmt: skip
        lines = str(error.value).splitlines()
        assert len(lines) == len(starts)
        assert all(any(line.startswith(start) for line in lines) for start in starts)

    def test_a_broken_override_alone_is_an_error(self) -> None:
        assert len(problems(None, "seed=[")) == 1


class TestOutput:
    @given(
        seed=st.integers(0, 2**40),
        lr=st.floats(1e-300, 1e300),
        axes=st.lists(st.sampled_from("stfcl"), min_size=1, unique=True),
        folder=st.text(min_size=1).filter(lambda text: "\0" not in text),
    )
    def test_resolved_yaml_reads_back(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, lr: float, axes: list[str], folder: str
    ) -> None:
        flags = {"seed": seed, "train.lr": lr, "search.axes": axes, "data.path": Path(folder)}
        settings = load_settings("kinetics-r2plus1d", flags=flags)
        path = tmp_path_factory.getbasetemp() / "resolved.yaml"
        path.write_text(resolved_yaml(settings), encoding="utf-8")
        assert load_settings(path) == settings

    def test_the_committed_schema_is_current(self) -> None:
        """Renew it with `make schema`."""
        committed = Path(loader.__file__).with_name("schema.json").read_text(encoding="utf-8")
        assert committed == json_schema() + "\n"

    def test_the_schema_is_one_and_describes_every_setting(self) -> None:
        schema = json.loads(json_schema())
        jsonschema.Draft202012Validator.check_schema(schema)
        groups = [schema, *schema["$defs"].values()]
        undescribed = [name for group in groups for name, field in group["properties"].items()
                       if not field.get("description")]  # fmt: skip
        assert undescribed == []

    @pytest.mark.parametrize("text", ["train: {lrr: 1}", "network: {backbone: r3d}", "extends: 3"])
    def test_the_schema_rejects_what_the_loader_rejects(self, text: str, write: Any) -> None:
        assert problems(write(text))
        assert not jsonschema.Draft202012Validator(json.loads(json_schema())).is_valid(yaml.safe_load(text))

    def test_resolved_yaml_states_defaults_too(self) -> None:
        resolved = yaml.safe_load(resolved_yaml(RunSettings()))
        assert resolved.keys() == RunSettings.model_fields.keys()
        assert resolved["teacher"]["train"].keys() == TrainSettings.model_fields.keys()
