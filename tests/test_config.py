"""The configuration: strict, and helpful about it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import config as configuration
from agent.config import Config, ConfigError, load, parse, reference
from agent.model import Severity
from tests.fakes.trees import plant


def test_no_file_is_all_defaults(tmp_path):
    assert load(host=plant(tmp_path, {"/etc/": ""})) == Config()


def test_an_empty_file_is_all_defaults():
    assert parse(b"", path="c.toml") == Config()


def test_the_reference_is_a_valid_file_of_all_defaults():
    assert parse(reference().encode(), path="c.toml") == Config()


def test_the_reference_describes_every_setting():
    lines = reference().splitlines()
    settings = [number for number, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert len(settings) > 15
    assert all(lines[number - 1].startswith("# ") for number in settings)


def test_what_is_set_is_taken():
    config = parse(b'fail_on = "low"\n[gpu]\ndeadline_seconds = 3\n[ports]\nexpected = ["tcp/22"]\n', path="c.toml")
    assert (config.fail_on, config.gpu.deadline_seconds, config.ports.expected) == (Severity.LOW, 3.0, ("tcp/22",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fial_on = 'low'", "unknown key fial_on; did you mean fail_on?"),
        ("[gpus]\nlibrary = '/x'", "unknown key gpus; did you mean gpu?"),
        ("[gpu]\nlibary = '/x'", "unknown key gpu.libary; did you mean library?"),
        ("[sinks.jsonl]\nfile = '/x'", "unknown key sinks.jsonl.file; expected one of path"),
        ("[gpu]\ndeadline_seconds = 'soon'", "gpu.deadline_seconds: expected `float`, got `str`"),
        ("[gpu]\ndeadline_seconds = 0", "gpu.deadline_seconds: expected `float` > 0"),
        ("[image]\nmaximum_age_days = 0", "image.maximum_age_days: expected `int` >= 1"),
        ("fail_on = 'terrible'", "fail_on: invalid enum value 'terrible'"),
        ("[ports]\nexpected = ['22']", "ports.expected[0]: expected `str` matching regex"),
        ("ports = 3", "ports: expected `object`, got `int`"),
        ("not toml", "is not valid TOML"),
        ("\xff", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_key_and_expectation(text, expected):
    with pytest.raises(ConfigError) as error:
        parse(text.encode("latin-1"), path="/etc/c.toml")
    assert expected in str(error.value)
    assert str(error.value).startswith("/etc/c.toml")


def test_a_file_that_was_asked_for_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"/mine\.toml"):
        load("/mine.toml", host=plant(tmp_path, {}))


def test_a_file_that_is_a_directory_is_an_error_and_not_defaults(tmp_path):
    with pytest.raises(ConfigError, match=r"/etc/dlvmguard/config\.toml"):
        load(host=plant(tmp_path, {"/etc/dlvmguard/config.toml/": ""}))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_a_clear_error(content):
    with contextlib.suppress(ConfigError):
        assert isinstance(parse(content, path="c.toml"), Config)


def test_the_effective_configuration_holds_plain_values():
    assert configuration.effective(Config())["fail_on"] == "high"
