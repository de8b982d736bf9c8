"""What the command prints of what others wrote: as text, whatever is in it."""

from __future__ import annotations

import pytest

from roost.cli.output import fail, print_table, printable
from roost.errors import ApplicationError, InvalidArgumentError


class NoSuchItem(ApplicationError):  # noqa: N818  # a user's
    pass


def test_tables_show_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    strange = ["[/nope]", "see [/etc/hosts]", "[bold]this[/bold] arr[i]", ":smile:", "\x1b[31mred"]
    print_table(("key",), [[key] for key in strange])
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert shown == ["key", *strange[:4], r"\x1b[31mred"]


def test_an_error_is_called_by_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    fail(NoSuchItem("there is none of [/x]"))
    fail(InvalidArgumentError("localhost:abc: cannot be"))
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        "NoSuchItem: there is none of [/x]",
        "InvalidArgumentError: localhost:abc: cannot be",
    ]


def test_letters_of_all_languages_are_printable() -> None:
    assert printable("Grüße, 世界 🙂\n") == "Grüße, 世界 🙂\n"
