"""Finding the users' classes: in a file or a module, and again after it has changed.

`examples/chat.py`, `shop.objects`, `shop.objects:Cart,Order`. Without names, every subclass of
`DurableObject` that the module itself defines or imports by name is served.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from roost.object import ClassSpec, DurableObject, spec_of

IMPORTLIB = (importlib.__file__, "<frozen importlib")
"""Files whose code stands between us and the first line of a module."""


class LoadError(Exception):
    """The application cannot be loaded: what, and why."""


class Application:
    """The user's code: where it comes from, and which classes it serves."""

    def __init__(self, target: str) -> None:
        path, _, names = target.partition(":")
        self.target = target
        self._names = [name for name in names.split(",") if name]
        self._file = Path(path).resolve() if path.endswith(".py") else None
        self._module = path if self._file is None else self._file.stem
        if self._file is not None and not self._file.is_file():
            raise LoadError(f"there is no file {path}")
        if self._file is None and Path(path).suffix and Path(path).is_file():
            raise LoadError(f"{path} is no Python file: give one, or a module")
        self._folder = (self._file.parent if self._file else Path.cwd()).resolve()
        self._read: dict[Path, int] = {}

    @property
    def watched(self) -> Path:
        """The folder whose changes matter."""
        return self._folder

    def load(self) -> dict[str, ClassSpec]:
        """Import the code afresh; what was imported from its folder before is imported again too.

        Raises `LoadError` when there is nothing to serve, and whatever the code raises.
        """
        before = {
            name: module for name, module in sys.modules.items() if _is_below(module, self._folder)
        }
        for name in before:
            del sys.modules[name]
        self._read = {self._file: _changed_ns(self._file)} if self._file is not None else {}
        try:
            return self._specs(self._import())
        except BaseException:
            sys.modules.update(before)  # the old code goes on, whole
            raise
        finally:
            for module in tuple(sys.modules.values()):
                if _is_below(module, self._folder) and module.__file__ is not None:
                    file = Path(module.__file__)
                    self._read.setdefault(file, _changed_ns(file))

    def is_stale(self) -> bool:
        """A file that the last load read has changed since."""
        return any(_changed_ns(file) != then for file, then in self._read.items())

    def _import(self) -> ModuleType:
        importlib.invalidate_caches()
        folder = str(self._folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        if self._file is None:
            try:
                return importlib.import_module(self._module)
            except ModuleNotFoundError as error:
                if error.name and f"{self._module}.".startswith(f"{error.name}."):
                    raise LoadError(f"there is no module {self._module}") from None
                raise  # one that the user's code imports
        spec = importlib.util.spec_from_file_location(self._module, self._file)
        if spec is None or spec.loader is None:
            raise LoadError(f"{self._file} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[self._module] = module
        # Not through the byte-code cache: it goes by the whole second of the last change.
        source = self._file.read_bytes()
        exec(compile(source, str(self._file), "exec"), vars(module))  # the user's program
        return module

    def _specs(self, module: ModuleType) -> dict[str, ClassSpec]:
        found: list[type[DurableObject]] = []
        if self._names:
            for name in self._names:
                value = getattr(module, name, None)
                if value is None or not _is_served(value):
                    raise LoadError(f"{self.target}: {name} is not a class of durable objects")
                found.append(value)
        else:
            found = [value for value in vars(module).values() if _is_served(value)]
        if not found:
            raise LoadError(f"{self.target} defines no class that derives from roost.DurableObject")
        return specs_of(found)


def users_trace(error: BaseException) -> str:
    """The traceback from the first line of the user's own code on: what led there is ours."""
    users = trace = error.__traceback__
    while trace is not None:
        ours = trace.tb_frame.f_code.co_filename == __file__
        trace = trace.tb_next
        if ours:
            users = trace
    while users is not None and users.tb_frame.f_code.co_filename.startswith(IMPORTLIB):
        users = users.tb_next
    return "".join(traceback.format_exception(type(error), error, users))


def specs_of(classes: Sequence[type[DurableObject]]) -> dict[str, ClassSpec]:
    """The classes by the name under which they are called."""
    specs: dict[str, ClassSpec] = {}
    for cls in classes:
        spec = spec_of(cls)
        other = specs.get(spec.name)
        if other is not None and other.cls is not cls:
            raise LoadError(f"two classes are named {spec.name}: rename one of them")
        specs[spec.name] = spec
    return specs


def _is_served(value: object) -> TypeGuard[type[DurableObject]]:
    return (
        isinstance(value, type) and issubclass(value, DurableObject) and value is not DurableObject
    )


def _changed_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _is_below(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    if not file or "site-packages" in file:
        return False
    name = module.__name__
    if name.split(".")[0] in ("roost", "roost_node", "__main__"):
        return False
    return folder in Path(file).resolve().parents
