"""Command-line flags and configuration files for frozen dataclasses.

A field's name is the flag's (`batch_size` is `--batch-size`), its annotation says how the text is read, and its
metadata, made by `fields.flag`, hold help and choices. `--config FILE` (TOML or JSON) gives the same names; a flag on
the command line wins over the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

from mffpa_ext.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def make_parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser whose errors are `UserError`s; no abbreviations, so that new flags never change old scripts."""
    return _Parser(prog=program, description=description, allow_abbrev=False)


def add_flags(parser: argparse.ArgumentParser, *configs: type, leave_out: Collection[str] = ()) -> None:
    """Adds a flag for every field of the dataclasses. Absent flags stay absent from the parsed namespace.

    leave_out: fields that get none.
    """
    for config in configs:
        hints = typing.get_type_hints(config)
        group = parser.add_argument_group(config.__doc__.strip().splitlines()[0].rstrip("."))
        for field in dataclasses.fields(config):
            if field.name in leave_out:
                continue
            name = "--" + field.name.replace("_", "-")
            text = field.metadata["help"]
            if field.default is not None and field.default is not False:
                text += f" (default: {_shown(field.default)})"
            options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
            if hints[field.name] is bool:
                parser_action = {"action": argparse.BooleanOptionalAction}
            else:
                reader = _reader(hints[field.name])
                parser_action = {"type": reader, "metavar": reader.__name__}
                if field.metadata["choices"]:
                    choices = field.metadata["choices"]
                    numbers = all(isinstance(choice, int) for choice in choices) and len(choices) > 4
                    shown = f"{choices[0]}..{choices[-1]}" if numbers else "|".join(map(str, choices))
                    parser_action |= {"choices": choices, "metavar": shown}
            group.add_argument(name, **options, **parser_action)


def as_arguments(settings: dict[str, Any]) -> list[str]:
    """Settings by field name as a command line that parses to them; None is left out, as its flag would be."""
    arguments = []
    for field, value in settings.items():
        name = field.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            arguments.append(f"--{name}={_shown(value)}")  # one word, so that a value may begin with a dash
    return arguments


def read_config_file(path: str, *configs: type) -> dict[str, Any]:
    """Settings of a TOML or JSON file, by field name. Raises UserError for a key or a value that no field takes."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        settings = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"--config {path}: expected a file that can be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--config {path}: expected TOML, or JSON where the name ends in .json: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"--config {path}: expected a table of settings, got a {type(settings).__name__}")
    fields = {field.name: (field, config) for config in configs for field in dataclasses.fields(config)}
    values = {}
    for key, value in settings.items():
        name = key.replace("-", "_")
        if name not in fields:
            raise UserError(f"--config {path}: no setting {key!r}; the settings are {', '.join(fields)}")
        field, config = fields[name]
        values[name] = _from_file(f"--config {path}: {key}", value, typing.get_type_hints(config)[name], field)
    return values


def restored(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a checkpoint keeps them, in primitives, to what `build` takes: lists are sizes again."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def build(config: type, settings: dict[str, Any]) -> Any:
    """The dataclass with those of the settings that are its own."""
    return config(**{f.name: settings[f.name] for f in dataclasses.fields(config) if f.name in settings})


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _size(text: str) -> tuple[int, int]:
    height, width = (int(part) for part in text.lower().split("x"))
    return height, width


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _number_or_word(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


_READERS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("N", int),
    float: ("X", _finite),
    str: ("TEXT", str),
    tuple[int, int]: ("HxW", _size),
    str | int: ("N|WORD", _number_or_word),
}


_EXPECTED = {
    "N": "a whole number",
    "X": "a finite number",
    "TEXT": "text",
    "HxW": "height x width such as 512x512",
    "N|WORD": "a whole number or a word",
}


def _without_none(hint: Any) -> Any:
    """`int | None` to `int`: an absent flag stands for None."""
    if isinstance(hint, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not types.NoneType]
        return parts[0] if len(parts) == 1 else typing.Union[tuple(parts)]  # noqa: UP007
    return hint


def _reader(hint: Any) -> Callable[[str], Any]:
    name, read = next(entry for known, entry in _READERS.items() if known == _without_none(hint))

    def reader(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {_EXPECTED[name]}, got {text!r}") from None

    reader.__name__ = name
    return reader


# What a field takes from a file, where a value has a type already. A string is read as on the command line.
_FILE_TYPES: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    tuple[int, int]: (list, str),
    str | int: (int, str),
}


def _from_file(where: str, value: Any, hint: Any, field: dataclasses.Field) -> Any:
    if hint is bool:
        if not isinstance(value, bool):
            raise UserError(f"{where}: expected true or false, got {value!r}")
        return value
    if value is None and _without_none(hint) != hint:  # JSON's null, as in the config.json of a run
        return None
    known, types_taken = next(entry for entry in _FILE_TYPES.items() if entry[0] == _without_none(hint))
    if isinstance(value, bool) or not isinstance(value, types_taken):
        raise UserError(f"{where}: expected {_EXPECTED[_READERS[known][0]]}, got {value!r}")
    if isinstance(value, list):
        value = "x".join(map(str, value))
    try:
        value = _reader(hint)(str(value))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{where}: {error}") from None
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise UserError(f"{where}: expected one of {', '.join(map(str, choices))}, got {value!r}")
    return value
