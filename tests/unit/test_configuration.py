"""Configuration errors name the file, the line and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_core.configuration import ConfigurationError, ConfigurationFile, StrictModel, nearest


class Engine(StrictModel):
    """A nested configuration."""

    power_kw: float
    cylinders: int = 4


class Car(StrictModel):
    """A configuration with every kind of nesting the project uses."""

    name: str
    engine: Engine
    spare: Engine | None = None
    wheels: dict[str, Engine] = {}
    history: tuple[Engine, ...] = ()


def read(tmp_path: Path, text: str) -> Car:
    path = tmp_path / "car.yaml"
    path.write_text(text)
    return ConfigurationFile.read(path).validate(Car)


def test_valid_file_is_read(tmp_path: Path) -> None:
    car = read(tmp_path, "name: a\nengine: {power_kw: 3}\nwheels: {left: {power_kw: 1, cylinders: 2}}\n")
    assert car.engine.power_kw == 3
    assert car.wheels["left"].cylinders == 2


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: a\nengine:\n  power_kw: 3\n  cylindres: 2\n", 4, ["'cylindres'", "did you mean 'cylinders'"]),
        ("name: a\nengine: {power_kw: 1}\nspare:\n  powr_kw: 3\n", 4, ["did you mean 'power_kw'"]),
        (
            "name: a\nengine: {power_kw: 1}\nwheels:\n  left:\n    power: 3\n",
            5,
            ["wheels.left.power", "did you mean 'power_kw'"],
        ),
        ("name: a\nengine: {power_kw: 1}\nhistory:\n- power_kw: 2\n- cylinder: 2\n", 5, ["'cylinders'"]),
        ("nam: a\nengine: {power_kw: 1}\n", 1, ["did you mean 'name'"]),
        ("name: a\nengine:\n  power_kw: many\n", 3, ["engine.power_kw", "'many'"]),
        ("name: a\nengine:\n  cylinders: 3\n", 2, ["required key 'power_kw' is missing"]),
        ("name: a\nname: b\nengine: {power_kw: 1}\n", 2, ["'name' is written twice"]),
        ("name: [a\nengine: b\n", 2, ["not valid YAML"]),
    ],
)
def test_errors_name_line_and_nearest_key(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert f"car.yaml:{line}:" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ["", "just text\n", "- a list\n"])
def test_anything_but_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a mapping"):
        read(tmp_path, text)


def test_every_error_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, "nam: a\nengine: {power: 1}\n")
    assert len(str(caught.value).splitlines()) == 4


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ConfigurationFile.read(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ConfigurationFile.read(tmp_path / "binary.yaml")


def test_nearest_lists_the_valid_names_where_none_is_close() -> None:
    assert nearest("cpu9", ["cpu0", "cpu1"]).startswith("; did you mean 'cpu")
    assert nearest("xyzzy", ["cpu0", "gpu"]) == "; valid are: cpu0, gpu"
    assert nearest("anything", []) == ""
