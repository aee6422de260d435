"""From YAML, command-line options and dotted overrides to one validated `RunSettings`.

Later sources win, key by key: the file that another `extends` < the file < options < overrides. What stands in where
nothing is said (defaults) lies below a file that was asked for, and above the preset used when none was. Whatever is
wrong is reported at once, one line per problem, before any machine is asked for.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from configs.errors import ConfigError
from configs.schema import RunSettings

PRESETS = Path(__file__).resolve().parent / "presets"
"""Folder of the shipped presets, one YAML file each."""

EXTENDS = "extends"
"""Top-level key of a settings file that names the file it starts from; not a setting itself."""

EMBEDDED = "embedded"
"""Name of the preset that is used where none is asked for."""

MUST_BE = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "missing": "a longer list",
    "model_type": "a group of settings",
    "path_type": "a path",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_type": "text",
    "too_long": "a list of at most {max_length} values",
    "tuple_type": "a list",
}
"""What pydantic's error types ask for, in the words of a settings file; the rest keep pydantic's own words."""


def load_settings(
    config: str | Path | None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] = {},
    *,
    preset: str = EMBEDDED,
    defaults: Mapping[str, Any] = {},
) -> RunSettings:
    """Read, merge and check everything a run was told.

    Args:
        config: path of a YAML file or name of a shipped preset; none: `preset`.
        overrides: `train.lr=0.1`, values in YAML.
        flags: command-line options as dotted path → value; None means that the option was not given.
        preset: name of the shipped preset that is used where there is no `config`.
        defaults: dotted path → value, for what `config`, options and overrides leave open; they win over `preset`.
            None is a value like any other.

    Raises:
        ConfigError: one line for each setting that can't be used.
    """
    values = {} if config else _read_config(preset)
    for path, value in defaults.items():
        values = _merge(values, _nest(path, value))
    if config:
        values = _merge(values, _read_config(config))
    for path, value in flags.items():
        if value is not None:
            values = _merge(values, _nest(path, value))
    values, problems = _override(values, overrides)
    try:
        settings = RunSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join([*problems, *_describe(error, values)])) from None
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


def value_said(path: str, config: str | Path | None, overrides: Sequence[str] = ()) -> Any:
    """What a settings file and overrides say of one setting, unchecked; none where they leave it open.

    Args:
        path: dotted.
        config: as for `load_settings`; none: no file, not even a preset.
        overrides: as for `load_settings`, which reports those that are none.

    Raises:
        ConfigError: the file can't be read.
    """
    value: Any
    value, _ = _override(_read_config(config) if config else {}, overrides)
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def preset_names() -> list[str]:
    """Names of the shipped presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def embedded_preset(backbone: str) -> str:
    """Name of the preset that shrinks `backbone` on the embedded data set."""
    own = f"embedded-{backbone}"
    return own if own in preset_names() else EMBEDDED


def resolved_yaml(settings: RunSettings) -> str:
    """Every setting of a run as YAML, defaults included; `load_settings` reads it back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def json_schema() -> str:
    """JSON Schema (draft 2020-12) of a settings file, for editors; `configs/schema.json` is a copy of it."""
    schema = RunSettings.model_json_schema()
    description = "Preset name, or path relative to this file, of the settings to start from."
    schema["properties"] = {EXTENDS: {"type": "string", "description": description}, **schema["properties"]}
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2)


# Reading


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a repeated key is an error and 1e-3 a number, as YAML 1.2 has it."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = []
        for key, _ in node.value:
            if key.value in seen:
                problem = f"key {key.value!r} appears twice in one group; remove one"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen.append(key.value)
        return node


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(text: str, where: str | Path) -> Any:
    try:
        return _StrictLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{where}{line}: {problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # control characters; a date that does not exist
        raise ConfigError(f"{where}: {error}") from None


def _read_config(config: str | Path) -> dict[str, Any]:
    return _read(_locate(config, beside=Path(), where="config"))


def _read(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Contents of a settings file, merged over those of the file that it extends."""
    if path in extended_by:
        chain = " extends ".join(map(str, [*extended_by[extended_by.index(path) :], path]))
        raise ConfigError(f"{chain}: a file can't start from itself; remove one `{EXTENDS}`")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    values = _parse(text, path)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {values!r}, but must hold groups of settings, such as `train:`")
    start = values.pop(EXTENDS, None)
    if start is None:
        return values
    parent = _locate(start, beside=path.parent, where=f"{path}: {EXTENDS}")
    return _merge(_read(parent, (*extended_by, path)), values)


def _locate(config: str | Path, *, beside: Path, where: str) -> Path:
    """Path of a settings file. Preset names come first; other paths are relative to `beside`."""
    name = str(config)
    if name in preset_names():
        return PRESETS / f"{name}.yaml"
    if (path := beside / name).is_file():
        return path.resolve()
    known = ", ".join(preset_names())
    hint = _did_you_mean(name, preset_names())
    raise ConfigError(f"{where} is {name!r}, but must be an existing YAML file or a preset: {known}{hint}")


def _override(values: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Values with overrides upon them, and what is wrong with overrides that are none."""
    problems = []
    for override in overrides:
        try:
            values = _merge(values, _parse_override(override))
        except ConfigError as error:
            problems.append(str(error))
    return values, problems


def _parse_override(override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not (path.strip() and equals):
        raise ConfigError(f"override is {override!r}, but must be path=value, such as train.lr=0.1")
    return _nest(path.strip(), _parse(text, f"override {override!r}"))


def _nest(path: str, value: Any) -> dict[str, Any]:
    """`a.b`, 1 → {a: {b: 1}}."""
    key, _, rest = path.partition(".")
    return {key: _nest(rest, value) if rest else value}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` upon `base`: groups key by key, everything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


# Explaining


def _describe(error: ValidationError, values: dict[str, Any]) -> Iterator[str]:
    """One line per wrong setting; the members of a union, which pydantic reports one by one, share theirs."""
    located = [(_path_in(values, details["loc"]), details) for details in error.errors()]
    for path, group in groupby(located, key=lambda item: item[0]):
        yield _explain(path, values, [details for _, details in group])


def _path_in(values: Any, loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of pydantic's location that exists in the values; after it come names of union members."""
    for depth, part in enumerate(loc):
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return loc[:depth]
    return loc


def _explain(path: tuple[int | str, ...], values: Any, alternatives: list[ErrorDetails]) -> str:
    details = alternatives[0]
    dotted = ".".join(map(str, path))
    if details["type"] in ("extra_forbidden", "invalid_key"):
        group = _group_at(path[:-1])
        return _unknown_key(path, group.__name__, group.model_fields)
    if details["loc"][-1] == "[key]":
        return _unknown_key(path, ".".join(map(str, path[:-1])), _choices(details))
    if details["type"] == "value_error":  # a check of the schema; its message opens with the field's name
        return f"{dotted}.{details['ctx']['error']}"
    value = values
    for part in path:
        value = value[part]
    wanted = " or ".join(dict.fromkeys(map(_must_be, alternatives)))
    return f"{dotted} is {value!r}, but must be {wanted}{_did_you_mean(str(value), _choices(details))}"


def _group_at(path: tuple[int | str, ...]) -> type[BaseModel]:
    group: Any = RunSettings
    for part in path:
        group = group.model_fields[part].annotation
    return group  # type: ignore[no-any-return]


def _unknown_key(path: tuple[int | str, ...], owner: str, keys: Iterable[str]) -> str:
    *above, key = map(str, path)
    paths = {name: ".".join([*above, name]) for name in keys}
    close = difflib.get_close_matches(key, paths, n=1)
    hint = f"did you mean `{paths[close[0]]}`?" if close else f"its keys are {', '.join(paths)}"
    return f"`{'.'.join([*above, key])}` is not a key of {owner}; {hint}"


def _must_be(details: ErrorDetails) -> str:
    if choices := _choices(details):
        return f"one of {', '.join(choices)}"
    if wording := MUST_BE.get(details["type"]):
        return wording.format(**details.get("ctx", {}))
    return details["msg"].removeprefix("Input should be ")


def _choices(details: ErrorDetails) -> list[str]:
    """What a field with a fixed set of values accepts; nothing for other fields."""
    if details["type"] != "literal_error":
        return []
    return [choice.strip("'") for choice in re.split(r", | or ", details["ctx"]["expected"])]


def _did_you_mean(value: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(value, choices, n=1)
    return f"; did you mean {close[0]}?" if close else ""
