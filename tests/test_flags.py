"""Flags from dataclasses, configuration files, and the one way in which a command ends."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mffpa_ext import flags
from mffpa_ext.command import run_command
from mffpa_ext.data.config import DataConfig
from mffpa_ext.errors import UserError
from mffpa_ext.fields import flag
from mffpa_ext.training.config import TrainConfig


@dataclass(frozen=True)
class Things:
    """Things."""

    count: int = flag(3, "a number of 100% things")
    rate: float | None = flag(None, "a rate")
    size: tuple[int, int] = flag((4, 6), "a size")
    part: str | int = flag("all", "how many")
    kind: str = flag("red", "a kind", choices=("red", "blue"))
    level: int = flag(1, "a level", choices=(1, 2, 3, 4, 5))
    brave: bool = flag(False, "whether")
    note_text: str | None = flag(None, "a text")


def parse(*arguments: str) -> Things:
    parser = flags.make_parser("things", "Things to do.")
    flags.add_flags(parser, Things)
    return flags.build(Things, vars(parser.parse_args(arguments)))


def from_file(tmp_path: Path, text: str, suffix: str = "toml") -> Things:
    path = tmp_path / f"settings.{suffix}"
    path.write_text(text, encoding="utf-8")
    return flags.build(Things, flags.read_config_file(str(path), Things))


# the command line

def test_without_flags_everything_is_the_default() -> None:
    assert parse() == Things()


def test_settings_as_arguments_parse_to_themselves() -> None:
    settings = {"count": -7, "rate": None, "size": (8, 16), "part": "-", "kind": "blue", "brave": True,
                "note_text": "--odd, with spaces"}
    assert parse(*flags.as_arguments(settings)) == Things(**settings)
    assert flags.as_arguments({"brave": False, "note_text": None}) == ["--no-brave"]


def test_fields_that_are_left_out_have_no_flag() -> None:
    parser = flags.make_parser("things", "Things to do.")
    flags.add_flags(parser, Things, leave_out={"count"})
    assert "--count" not in parser.format_help() and "--rate" in parser.format_help()


@pytest.mark.parametrize(
    "arguments, name, value",
    [
        (["--count", "-7"], "count", -7),
        (["--count=12"], "count", 12),
        (["--rate", "1e-3"], "rate", 0.001),
        (["--rate", "-2"], "rate", -2.0),
        (["--size", "512x128"], "size", (512, 128)),
        (["--size", "8X16"], "size", (8, 16)),
        (["--part", "all"], "part", "all"),
        (["--part", "17"], "part", 17),
        (["--part", "-3"], "part", -3),
        (["--kind", "blue"], "kind", "blue"),
        (["--level", "5"], "level", 5),
        (["--brave"], "brave", True),
        (["--brave", "--no-brave"], "brave", False),
        (["--note-text", "a b"], "note_text", "a b"),
        (["--count", "1", "--count", "2"], "count", 2),
    ],
)
def test_a_flag_is_read_by_its_type(arguments: list[str], name: str, value: object) -> None:
    read = getattr(parse(*arguments), name)
    assert read == value and type(read) is type(value)
    assert dataclasses.replace(parse(*arguments), **{name: getattr(Things(), name)}) == Things()  # and nothing else


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--count", "3.5"], "--count: expected a whole number, got '3.5'"),
        (["--count", ""], "--count: expected a whole number, got ''"),
        (["--count"], "--count: expected one argument"),
        (["--rate", "fast"], "--rate: expected a finite number, got 'fast'"),
        (["--rate", "nan"], "--rate: expected a finite number, got 'nan'"),
        (["--rate", "inf"], "--rate: expected a finite number, got 'inf'"),
        (["--rate", "1e999"], "--rate: expected a finite number, got '1e999'"),
        (["--size", "64"], "--size: expected height x width such as 512x512, got '64'"),
        (["--size", "64x64x1"], "--size: expected height x width"),
        (["--size", "64,64"], "--size: expected height x width"),
        (["--part", "²"], "--part: expected a whole number or a word"),
        (["--kind", "green"], "--kind: invalid choice: 'green' (choose from 'red', 'blue')"),
        (["--level", "9"], "--level: invalid choice: 9"),
        (["--brave=yes"], "--brave"),
        (["--colour", "1"], "unrecognized arguments: --colour 1"),
        (["stray"], "unrecognized arguments: stray"),
        (["--coun", "1"], "unrecognized arguments: --coun 1"),  # an abbreviation
        (["--note_text", "x"], "unrecognized arguments: --note_text x"),
    ],
)
def test_what_cannot_be_read_names_the_flag_and_points_to_the_help(arguments: list[str], expected: str) -> None:
    with pytest.raises(UserError) as error:
        parse(*arguments)
    assert expected in str(error.value) and str(error.value).endswith("; see things --help")
    assert "\n" not in str(error.value)


def test_the_help_shows_every_flag_with_its_default(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for shown in ("--count N a number of 100% things (default: 3)", "--rate X a rate --size", "--part N|WORD",
                  "--size HxW a size (default: 4x6)", "--kind red|blue", "--level 1..5", "--brave, --no-brave",
                  "--note-text TEXT"):
        assert shown in text


# configuration files

TOML = 'count = 5\nrate = 2\nsize = [8, 16]\npart = 3\nkind = "blue"\nlevel = 2\nbrave = true\nnote-text = "hé"\n'
READ = Things(5, 2.0, (8, 16), 3, "blue", 2, True, "hé")


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    assert from_file(tmp_path, TOML) == READ
    content = json.dumps({name: value for name, value in dataclasses.asdict(READ).items()})
    assert from_file(tmp_path, content, "json") == READ
    assert type(from_file(tmp_path, TOML).rate) is float


def test_a_size_may_be_written_as_on_the_command_line(tmp_path: Path) -> None:
    assert from_file(tmp_path, 'size = "8x16"').size == (8, 16)


def test_null_is_for_settings_that_may_be_left_out(tmp_path: Path) -> None:
    assert from_file(tmp_path, '{"rate": null, "note_text": null}', "json") == Things()
    with pytest.raises(UserError, match="json: count: expected a whole number, got None"):
        from_file(tmp_path, '{"count": null}', "json")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("colour = 1", "no setting 'colour'; the settings are count, rate, "),
        ("count = 2.5", "count: expected a whole number, got 2.5"),
        ("count = true", "count: expected a whole number, got True"),
        ('count = "5"', "count: expected a whole number, got '5'"),
        ("count = [5]", "count: expected a whole number, got [5]"),
        ("rate = nan", "rate: expected a finite number, got 'nan'"),
        ("rate = inf", "rate: expected a finite number, got 'inf'"),
        ('rate = "1"', "rate: expected a finite number, got '1'"),
        ("size = [8]", "size: expected height x width such as 512x512, got '8'"),
        ("size = 8", "size: expected height x width such as 512x512, got 8"),
        ("size = [8.5, 8]", "size: expected height x width"),
        ("part = 1.5", "part: expected a whole number or a word, got 1.5"),
        ('kind = "green"', "kind: expected one of red, blue, got 'green'"),
        ("level = 9", "level: expected one of 1, 2, 3, 4, 5, got 9"),
        ("brave = 1", "brave: expected true or false, got 1"),
        ("note_text = 2024-01-02", "note_text: expected text, got "),
        ("[note_text]\na = 1", "note_text: expected text, got {'a': 1}"),
        ("count = ", "expected TOML, or JSON where the name ends in .json: "),
        ('{"count": 1}', "expected TOML, or JSON where the name ends in .json: "),
    ],
)
def test_a_setting_that_cannot_be_read_names_file_and_key(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        from_file(tmp_path, text)
    assert str(error.value).startswith(f"--config {tmp_path}/settings.toml: ") and expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ['{"count": 1', "[1, 2]", '"text"', "[" * 100_000, "", "\ufeff{}"])
def test_json_that_is_no_table_of_settings(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"^--config .*settings.json: expected "):
        from_file(tmp_path, text, "json")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError, match=f"^--config {path}: .*{reason}"):
            flags.read_config_file(str(path), Things)
    (tmp_path / "binary.toml").write_bytes(b"\x80\xff")
    with pytest.raises(UserError, match="binary.toml: expected TOML"):
        flags.read_config_file(str(tmp_path / "binary.toml"), Things)


@pytest.mark.parametrize("config", [DataConfig, TrainConfig])
def test_every_default_of_the_real_settings_survives_a_file(tmp_path: Path, config: type) -> None:
    path = tmp_path / "all.json"
    path.write_text(json.dumps(dataclasses.asdict(config())))
    assert flags.build(config, flags.read_config_file(str(path), DataConfig, TrainConfig)) == config()


def test_no_setting_has_two_meanings() -> None:
    names = [field.name for config in (DataConfig, TrainConfig) for field in dataclasses.fields(config)]
    assert len(names) == len(set(names))


# how a command ends

def ended(main, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        run_command(main, [])
    return end.value.code, capsys.readouterr().err


def raising(error: BaseException):
    def main(arguments: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("--x: wrong"), 2, "error: --x: wrong\n"),
        (UserError("a\nfile\r\nname: wrong"), 2, "error: a file name: wrong\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt("to continue: ..."), 130, "to continue: ...\n"),
        (MemoryError(), 2, "error: out of memory: lower the batch size or the image size\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "error: out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 2, "error: out of memory"),
    ],
)
def test_exit_codes_and_one_line(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture) -> None:
    ended_with, shown = ended(raising(error), capsys)
    assert ended_with == code and shown.startswith(line) and shown.count("\n") == 1


def test_success_is_silent(capsys: pytest.CaptureFixture) -> None:
    assert ended(lambda arguments: None, capsys) == (0, "")


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), KeyError("x")])
def test_programming_errors_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_command(raising(error), [])


def test_a_reader_that_is_gone_is_no_error(tmp_path: Path) -> None:
    script = "from mffpa_ext.command import run_command; run_command(lambda a: print('x' * 10), [])"
    command = f"(sleep 0.1; {sys.executable} -c \"{script}\"; echo $? > {tmp_path}/code) | true"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.stderr == "" and (tmp_path / "code").read_text() == "141\n"
