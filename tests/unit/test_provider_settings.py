"""`read_settings`: a provider's table as the plugin's own dataclass or struct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
import pytest

from deltabus.provider import ConfigError, read_settings


@dataclass(frozen=True, kw_only=True)
class Acme:
    base_url: str
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    verify: bool = True
    api_key: str | None = None


class AcmeStruct(msgspec.Struct, frozen=True, kw_only=True):
    base_url: str
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    verify: bool = True
    api_key: str | None = None


@pytest.fixture(params=[Acme, AcmeStruct])
def shape(request):
    return request.param


def test_a_table_fills_the_fields_and_leaves_defaults(shape):
    assert read_settings(shape, {"base_url": "u", "timeout": 5}) == shape(base_url="u", timeout=5.0)


def test_what_comes_from_the_environment_is_text_and_converted(shape):
    read = read_settings(shape, {"base_url": "u", "timeout": "2.5", "verify": "false"})
    assert read == shape(base_url="u", timeout=2.5, verify=False)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"base_url": "u", "timeuot": 1}, "unknown key `timeuot`; did you mean `timeout`?"),
        ({"base_url": "u", "zzz": 1}, "unknown key `zzz`; there are: base_url, timeout, verify, api_key"),
        ({"timeout": 1}, "`base_url` is missing"),
        ({"base_url": 1}, "`base_url`: expected `str`, got `int`"),
        ({"base_url": "u", "timeout": "soon"}, "`timeout`: expected `float`, got `str`"),
        ({"base_url": "u", "timeout": 0}, "`timeout`: expected `float` > 0.0"),
        ({"base_url": "u", "api_key": ["secret"]}, "`api_key`: expected `str | null`, got `array`"),
    ],
)
def test_what_is_wrong_is_named_with_the_fix_and_without_the_value(shape, table, told):
    with pytest.raises(ConfigError) as caught:
        read_settings(shape, table)
    assert str(caught.value) == told


def test_a_plugin_without_settings_says_so():
    @dataclass
    class Nothing:
        pass

    with pytest.raises(ConfigError, match="unknown key `a`; there are: none"):
        read_settings(Nothing, {"a": 1})
