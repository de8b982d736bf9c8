"""One running project for all tests of this folder, with callers at work from the first test to the last."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from containers import engine
from containers.load import Load
from containers.project import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Started from the sources as they are."""
    if why := engine.missing():
        if engine.is_required():
            pytest.fail(f"this machine could run it: {why}")
        pytest.skip(f"no containers here: {why}")
    with Project(tmp_path_factory.mktemp("project")) as project:
        yield project


@pytest.fixture(scope="module")
def load(project: Project) -> Iterator[Load]:
    """Leaves only when nothing that was acknowledged is missing, doubled or out of order."""
    try:
        project.wait_until_in_sync(3)
        with Load(project.addresses()) as load:
            yield load
    except BaseException as error:
        error.add_note(project.logs())
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What the containers said goes with a failure."""
    try:
        yield
    except Exception as error:
        project = getattr(item, "funcargs", {}).get("project")
        if project is not None:
            error.add_note(project.logs())
        raise
