"""etcd behind passwords and certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from coordination.etcd_process import Etcd
from coordination.test_contract import CONFIG, SEVEN, TTL_S, A, first, info, swap
from coordination.test_etcd_faults import run
from roost_node.core.record import DeathRecord, Leader, Transaction
from roost_node.ownership.coordinator import (
    Changed,
    CoordinatorDownError,
    CoordinatorRefusedError,
)
from roost_node.ownership.etcd import EtcdCoordinator
from roost_node.ownership.etcd_link import EtcdOptions

PASSWORD = "correct horse battery"
PREFIX = "/roost/secure"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd whose user "roost" may touch our prefix and nothing else."""
    member = Etcd(tmp_path).start()
    try:
        for command in (
            "user add root:rootpw",
            "user grant-role root root",
            "role add roost",
            f"role grant-permission roost readwrite --prefix=true {PREFIX}/",
        ):
            member.ctl(*command.split())
        member.ctl("user", "add", f"roost:{PASSWORD}")
        member.ctl("user", "grant-role", "roost", "roost")
        member.ctl("auth", "enable")
        yield member
    finally:
        member.kill()


def options(etcd: Etcd, **more: object) -> EtcdOptions:
    return EtcdOptions((etcd.endpoint,), prefix=PREFIX, request_s=2.0, **more)  # type: ignore[arg-type]


async def use_everything(node: EtcdCoordinator) -> None:
    await node.create(CONFIG)
    session = await node.open_session(info(A), TTL_S)
    assert await node.keep_alive(session)
    assert await node.update_session(info(A, session, draining=True))
    assert await node.campaign(session) == Leader(A, session)
    await node.resign(session)
    assert (await node.apply(Transaction((swap(SEVEN, 0, 1),)))).succeeded
    await node.write_death(DeathRecord(A, session))
    await node.raise_format_level(1)
    after = await node.read()
    assert set(after.shards) == {SEVEN}
    again = await node.open_session(info(A), TTL_S)
    await node.close_session(again)


def test_a_user_with_rights_to_the_prefix_alone_can_do_everything(guarded: Etcd) -> None:
    async def story() -> None:
        node = EtcdCoordinator(options(guarded, user="roost", password=PASSWORD))
        await use_everything(node)
        hints = node.changes((await node.read()).revision - 1)
        await anext(hints)
        await node.close()

    run(story())


def test_a_token_that_etcd_has_forgotten_is_renewed_unseen(guarded: Etcd) -> None:
    async def story() -> None:
        node = EtcdCoordinator(options(guarded, user="roost", password=PASSWORD))
        await node.create(CONFIG)
        session = await node.open_session(info(A), TTL_S)
        node._link._token = "forgotten.1"
        assert (await node.apply(Transaction((swap(SEVEN, 0, 1),)))).succeeded
        node._link._token = "forgotten.2"
        assert await node.keep_alive(session)
        start = (await node.read()).revision - 1
        node._link._token = "forgotten.3"
        await first(node.changes(start), lambda hint: isinstance(hint, Changed))
        guarded.kill()
        await asyncio.to_thread(guarded.start, wait=False)
        await asyncio.to_thread(guarded.wait, healthy=False)
        assert set((await node.read()).shards) == {SEVEN}
        assert await node.keep_alive(session)
        await node.close()

    run(story())


def test_a_wrong_password_is_refused_and_the_password_is_told_to_nobody(
    guarded: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        caplog.set_level("DEBUG")
        for given, wants in (
            ({"user": "roost", "password": PASSWORD + "!"}, "check name and password"),
            ({"user": "nobody", "password": PASSWORD}, "check name and password"),
            ({}, "user name is empty"),
        ):
            node = EtcdCoordinator(options(guarded, **given))
            with pytest.raises(CoordinatorRefusedError, match=wants) as refused:
                await node.create(CONFIG)
            await node.close()
            said = f"{refused.value} {refused.value!r} {options(guarded, **given)!r} {caplog.text}"
            assert PASSWORD not in said

    run(story())


def test_a_user_without_rights_is_refused_and_has_changed_nothing(guarded: Etcd) -> None:
    async def story() -> None:
        elsewhere = EtcdOptions(
            (guarded.endpoint,), prefix="/roost/other", user="roost", password=PASSWORD
        )
        node = EtcdCoordinator(elsewhere)
        with pytest.raises(CoordinatorRefusedError, match="permission denied"):
            await node.create(CONFIG)
        await node.close()

    run(story())


class Certificates:
    """An authority of our own, and what it signed, as files."""

    def __init__(self, folder: Path, name: str) -> None:
        authority = trustme.CA()
        self.ca = folder / f"{name}-ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.server = self._issue(authority, folder / f"{name}-server", "localhost", "127.0.0.1")
        self.client = self._issue(authority, folder / f"{name}-client", "node-a")

    @staticmethod
    def _issue(authority: trustme.CA, stem: Path, *names: str) -> tuple[Path, Path]:
        issued = authority.issue_cert(*names)
        cert, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
        issued.cert_chain_pems[0].write_to_path(str(cert))
        issued.private_key_pem.write_to_path(str(key))
        return cert, key


def test_certificates_are_shown_and_checked_on_both_sides(tmp_path: Path) -> None:
    ours, theirs = Certificates(tmp_path, "ours"), Certificates(tmp_path, "theirs")
    flags = ["--client-cert-auth", "--trusted-ca-file", str(ours.ca)]
    member = Etcd(tmp_path, flags=flags, tls=ours.server).start()

    async def story() -> None:
        cert, key = ours.client
        node = EtcdCoordinator(options(member, ca=ours.ca, cert=cert, key=key))
        await use_everything(node)
        await node.close()
        their_cert, their_key = theirs.client
        for wrong in (
            {"ca": theirs.ca, "cert": cert, "key": key},  # not the authority that signed etcd's
            {"ca": ours.ca, "cert": their_cert, "key": their_key},  # nor ours
            {"ca": ours.ca},
            {},  # no TLS at all
        ):
            node = EtcdCoordinator(
                EtcdOptions((member.endpoint,), prefix=PREFIX, request_s=0.5, **wrong)  # type: ignore[arg-type]
            )
            with pytest.raises(CoordinatorDownError):
                await node.read()
            await node.close()

    try:
        run(story())
    finally:
        member.kill()


def test_a_certificate_for_another_name_is_not_believed(tmp_path: Path) -> None:
    ours = Certificates(tmp_path, "ours")
    member = Etcd(tmp_path, tls=ours.client).start()  # made out to node-a

    async def story() -> None:
        node = EtcdCoordinator(
            EtcdOptions((f"https://{member.endpoint}",), ca=ours.ca, request_s=0.5)
        )
        with pytest.raises(CoordinatorDownError):
            await node.read()
        await node.close()

    try:
        run(story())
    finally:
        member.kill()
