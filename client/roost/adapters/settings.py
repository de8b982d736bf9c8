"""Knobs of the server programs: one declaration gives a flag, an environment variable and a TOML key.

A setting is a dataclass field made by `knob`. `settings(...)` turns all fields of the given classes
into options of a click command; a flag goes before `ROOST_...`, which goes before the file that
`--config` names.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

import click

CHOICES = {
    "log_format": ("console", "json"),
    "log_level": ("debug", "info", "warning", "error"),
}
CLIENT_SETTINGS = {"address", "timeout"}  # in the shared file, where a program is a server alone


def knob(
    default: Any,
    why: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A setting: `low` and `high` bound it, both inclusive; `why` is its help text."""
    return field(default=default, metadata={"why": why, "unit": unit, "low": low, "high": high})


def check_ranges(limits: Any) -> None:
    """For `__post_init__`: raises ValueError, naming the knob and its range."""
    for one in dataclasses.fields(limits):
        value, low, high = getattr(limits, one.name), one.metadata["low"], one.metadata["high"]
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(f"{one.name} is {value}: give {low} to {high} {one.metadata['unit']}")


def settings(
    *classes: type[Any], hidden: frozenset[str] = frozenset()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """All knobs of these dataclasses as options; `--config` names a TOML file with the same names."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        knobs = [one for cls in classes for one in dataclasses.fields(cls)]
        for one in reversed(knobs):
            if one.name not in hidden:
                function = _option(one)(function)
        return config_option(function)

    return decorate


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--config`: one TOML file for all programs; each takes the settings that are its own."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file of settings; flags and environment go before it [ROOST_CONFIG].",
        envvar="ROOST_CONFIG",
    )(function)


def _option(one: dataclasses.Field[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    low, high = one.metadata["low"], one.metadata["high"]
    kind = type(one.default)
    unit = f" ({one.metadata['unit']})" if one.metadata["unit"] else ""
    bounds: Any = kind
    if one.name in CHOICES:
        bounds = click.Choice(CHOICES[one.name])
    elif kind is int:
        bounds = click.IntRange(low, high)
    elif kind is float:
        bounds = click.FloatRange(low, high)
    variable = "ROOST_" + one.name.upper()
    return click.option(
        "--" + one.name.replace("_", "-"),
        one.name,
        envvar=variable,
        type=None if kind is bool else bounds,
        is_flag=kind is bool,
        default=one.default,
        show_default=True,
        help=f"{one.metadata['why']}{unit} [{variable}]",
    )


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from None
    known = _options_of(context.command, context)
    known |= _options_of(context.find_root().command, context.find_root())
    unknown = sorted(set(content) - known - CLIENT_SETTINGS)
    if unknown:
        raise click.BadParameter(f"{path}: there is no setting {unknown[0]!r}")
    context.default_map = content


def _options_of(command: click.Command, context: click.Context) -> set[str]:
    """Every option of a command and of those below it."""
    names = {str(one.name) for one in command.params if isinstance(one, click.Option)}
    if isinstance(command, click.Group):
        for name in command.list_commands(context):  # asked for, not read: they may be loaded late
            below = command.get_command(context, name)
            names |= _options_of(below, context) if below is not None else set()
    return names
