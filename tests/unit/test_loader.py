"""The users' code: what was read, and whether it has changed since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roost_node.host.loader import Application, LoadError, users_trace

CODE = """
from {helper} import BY
from roost import DurableObject

class Counter(DurableObject):
    async def step(self) -> int:
        return BY
"""


def write(file: Path, text: str) -> None:
    """A change that the clock of the file system can tell from the one before."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    file.write_text(text)
    if before:
        os.utime(file, ns=(before + 1_000_000, before + 1_000_000))


def test_a_change_of_what_was_loaded_is_noticed_until_it_is_loaded(tmp_path: Path) -> None:
    app, helper = tmp_path / "stale_app.py", tmp_path / "stale_helper.py"
    write(helper, "BY = 1\n")
    write(app, CODE.format(helper="stale_helper"))
    application = Application(str(app))
    application.load()
    assert not application.is_stale()
    for file, text in ((helper, "BY = 2\n"), (app, CODE.format(helper="stale_helper") + "\n")):
        write(file, text)
        assert application.is_stale()
        application.load()
        assert not application.is_stale()
    (tmp_path / "unrelated.py").write_text("")
    assert not application.is_stale()


def test_code_that_could_not_be_loaded_is_tried_again_only_when_it_changes(tmp_path: Path) -> None:
    app = tmp_path / "broken_app.py"
    write(app, "value = 1\n")
    application = Application(str(app))
    with pytest.raises(LoadError, match="defines no class"):
        application.load()
    assert not application.is_stale()
    write(app, "value = 2\n")
    assert application.is_stale()
    app.unlink()
    assert application.is_stale()


@pytest.mark.parametrize("text", ["def broken(:", "import there_is_no_such_module", "1 / 0"])
def test_a_traceback_begins_with_the_users_own_code(tmp_path: Path, text: str) -> None:
    app = tmp_path / "broken_app.py"
    app.write_text(text)
    with pytest.raises(Exception) as raised:  # noqa: PT011  # whatever it is
        Application(str(app)).load()
    first = next(line for line in users_trace(raised.value).splitlines() if "File " in line)
    assert "broken_app.py" in first


def test_a_module_that_breaks_shows_its_own_lines_and_one_that_is_not_there_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_module.py").write_text("import there_is_no_such_module")
    with pytest.raises(ModuleNotFoundError) as raised:
        Application("broken_module").load()
    first = next(line for line in users_trace(raised.value).splitlines() if "File " in line)
    assert "broken_module.py" in first
    for missing in ("no_such_app", "no_such_app.objects"):
        with pytest.raises(LoadError, match=f"there is no module {missing}"):
            Application(missing).load()


def test_a_file_of_something_else_is_no_application(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Read me")
    with pytest.raises(LoadError, match="is no Python file"):
        Application(str(readme))
