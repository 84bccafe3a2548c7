"""Keys: made, rotated and revoked in one transaction each; what is over stays over."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from shared.catalogue import key_changes
from shared.catalogue.cache import CatalogueCache
from shared.catalogue.key_store import NewKey, peppers_in_use
from shared.catalogue.keys import MadeKey
from shared.contracts.messages.catalogue import ApiKeyMessage, Limit, OrganisationMessage, decode_catalogue
from shared.contracts.topics import CATALOGUE
from shared.domain.errors import KhataError, Usage
from tests.conftest import Parts
from tests.support.catalogue import DOCUMENT, apply_document
from tests.support.kafka import read_topic
from tests.support.keys import key_office
from tests.support.services import peppers

DAY = timedelta(days=1)
WEB = NewKey("acme-app", "web", limit=Limit(50, 100))


async def _told(parts: Parts) -> dict[str, ApiKeyMessage]:
    """Each key as the last record of catalogue.v1 says."""
    found: dict[str, ApiKeyMessage] = {}
    for record in await read_topic(parts, parts.kafka.names.topic(CATALOGUE)):
        message = decode_catalogue(record.value or b"")
        if isinstance(message, ApiKeyMessage):
            assert message.id not in found or message.version > found[message.id].version
            found[message.id] = message
    return found


async def test_a_key_is_made_told_and_audited(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        text, stored = await office.create(NewKey("acme-app", "web", ("events:write", "usage:read"), Limit(5, 9), DAY))
        told = (await _told(parts))[stored.id]
        assert (told.project_id, told.organisation_id, told.live) == ("acme-app", "acme", True)
        assert (told.scopes, told.limit, told.version) == (("events:write", "usage:read"), Limit(5, 9), 1)
        assert told.expires_at == stored.created_at + DAY
        with pytest.raises(Usage, match="key acme-app/web exists"):
            await office.create(WEB)
        with pytest.raises(Usage, match="there is no project nowhere"):
            await office.create(NewKey("nowhere", "web"))
    with psycopg.connect(parts.database_url) as owner:
        entry = owner.execute(
            "SELECT actor, action, object_kind, object_id, organisation_id, details FROM audit.entry "
            "WHERE action = 'key.created' AND object_id = %s",
            (stored.id,),
        ).fetchall()
    assert entry == [("test", "key.created", "key", stored.id, "acme", {"key": "acme-app/web"})]
    assert text not in str(entry)


async def test_after_a_rotation_both_work_and_the_old_one_ends_with_its_grace(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        _, first = await office.create(WEB)
        _, rotated = await office.rotate("acme-app", "web", DAY)
        before, after = await office.of_name("acme-app", "web")
        assert (before.id, before.state, before.replaced_by) == (first.id, "in grace", rotated.new.id)
        assert (after.id, after.state, after.limit) == (rotated.new.id, "live", Limit(50, 100))
        assert before.expires_at == after.created_at + DAY
        told = await _told(parts)
        assert told[first.id].expires_at == before.expires_at
        assert told[after.id].expires_at is None


async def test_rotating_twice_leaves_two_at_most(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        _, first = await office.create(WEB)
        _, second = await office.rotate("acme-app", "web", DAY)
        _, third = await office.rotate("acme-app", "web", timedelta(hours=1))
        assert [key.state for key in await office.of_name("acme-app", "web")] == ["expired", "in grace", "live"]
        assert [key.id for key in third.ended] == [first.id]
        told = await _told(parts)
        now = datetime.now(UTC) + timedelta(seconds=1)
        usable = [key for key in told.values() if key.id in (first.id, second.new.id, third.new.id)]
        assert sum(key.expires_at is None or key.expires_at > now for key in usable) == 2
        _, _ = await office.rotate("acme-app", "web", timedelta(0))
        states = [key.state for key in await office.of_name("acme-app", "web")]
        assert states == ["expired", "expired", "expired", "live"]


async def test_a_key_with_an_end_is_followed_by_one_made_for_as_long_and_grace_never_prolongs_it(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        _, first = await office.create(NewKey("acme-app", "web", lifetime=timedelta(hours=2)))
        _, rotated = await office.rotate("acme-app", "web", DAY)
        assert rotated.old.expires_at == first.expires_at
        assert rotated.new.expires_at == rotated.new.created_at + timedelta(hours=2)
        _, again = await office.rotate("acme-app", "web", DAY, lifetime=timedelta(days=90))
        assert again.new.expires_at == again.new.created_at + timedelta(days=90)


async def test_of_two_rotations_at_once_one_wins_and_the_other_is_told(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        _, first = await office.create(WEB)
        seen = await office.holder("acme-app", "web")
        made = [MadeKey.under(peppers(), True) for _ in range(4)]
        outcomes = await asyncio.gather(
            *(
                office.once(lambda c, one=one: key_changes.rotate(c, one, seen, DAY, None, office.change))  # type: ignore[misc]
                for one in made
            ),
            return_exceptions=True,
        )
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(lost) == 3
        assert all(isinstance(one, Usage) and "rotated by somebody else just now" in str(one) for one in lost)
        assert [key.state for key in await office.of_name("acme-app", "web")] == ["in grace", "live"]


async def test_a_second_try_after_a_lost_answer_changes_nothing(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        made = MadeKey.under(peppers(), True)
        for _ in range(2):
            first = await office.once(lambda c: key_changes.create(c, made, WEB, office.change))
        again = MadeKey.under(peppers(), True)
        for _ in range(2):
            rotated = await office.once(lambda c: key_changes.rotate(c, again, first, DAY, None, office.change))
            assert (rotated.new.id, rotated.old.id) == (again.id, made.id)
        assert [key.version for key in await office.of_name("acme-app", "web")] == [2, 1]


async def test_revoking_ends_every_key_of_the_name_and_doing_it_again_is_harmless(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        await office.create(WEB)
        await office.rotate("acme-app", "web", DAY)
        now, before = await office.revoke("acme-app/web", "leaked")
        assert ([key.state for key in now], before) == (["revoked"] * 2, [])
        first_told = await _told(parts)
        now, before = await office.revoke("acme-app/web")
        assert (now, len(before)) == ([], 2)
        assert await _told(parts) == first_told
        assert all(first_told[key.id].revoked_at for key in before)
        with pytest.raises(Usage, match="is revoked: `khata keys create`"):
            await office.rotate("acme-app", "web", DAY)
        with pytest.raises(Usage, match="there is no key acme-app/never"):
            await office.revoke("acme-app/never")
        _, stored = await office.create(WEB)  # the name is free again, and the old ones stay over
        assert [key.state for key in await office.of_name("acme-app", "web")] == ["revoked", "revoked", "live"]
        [one], _ = await office.revoke(stored.id)
        assert one.id == stored.id


async def test_a_rotation_and_a_revocation_at_once_never_leave_a_revoked_key_alive(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        await office.create(WEB)
        outcomes = await asyncio.gather(
            office.rotate("acme-app", "web", DAY), office.revoke("acme-app/web"), return_exceptions=True
        )
        assert all(isinstance(one, KhataError) or not isinstance(one, BaseException) for one in outcomes), outcomes
        states = [key.state for key in await office.of_name("acme-app", "web")]
        assert states in (["revoked"], ["revoked", "revoked"])


async def test_a_catalogue_file_meets_a_rotated_key_and_leaves_it_alone(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        _, rotated = await office.rotate("acme-app", "first", DAY)
        again = await apply_document(parts)
        assert {change.outcome for change in again.changes} == {"exists"}
        await office.revoke("acme-app/first")
        assert {change.outcome for change in (await apply_document(parts)).changes} == {"exists"}
        assert (await office.holder("acme-app", "first")).id == rotated.new.id


async def test_limits_of_the_file_reach_the_topic_and_can_be_changed_and_taken_away(parts: Parts) -> None:
    document = {
        **DOCUMENT,
        "organisations": [{"id": "acme", "name": "Acme", "state_code": "29", "limit": {"per_second": 7, "burst": 70}}],
        "projects": DOCUMENT["projects"][:1],
        "keys": [{"name": "first", "project": "acme-app", "limit": {"per_second": 3, "burst": 30}}],
    }
    await apply_document(parts)
    changed = await apply_document(parts, document)
    assert {(change.kind, change.outcome) for change in changed.changes if change.outcome != "exists"} == {
        ("organisation", "changed"),
        ("key", "changed"),
    }
    assert changed.secrets == {}
    assert {change.outcome for change in (await apply_document(parts, document)).changes} == {"exists"}
    async with key_office(parts) as office:
        first = await office.holder("acme-app", "first")
    assert (await _told(parts))[first.id].limit == Limit(3, 30)
    records = [decode_catalogue(r.value or b"") for r in await read_topic(parts, parts.kafka.names.topic(CATALOGUE))]
    assert [one.limit for one in records if isinstance(one, OrganisationMessage) and one.id == "acme"][-1] == Limit(
        7, 70
    )
    await apply_document(parts)
    assert not (await _told(parts))[first.id].limit


async def test_what_was_lost_from_the_topic_is_told_again(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        await office.create(WEB)
        count = await office.once(lambda c: key_changes.publish_all(c, office.change))
        assert count == 4
    cache = CatalogueCache()
    for record in (await read_topic(parts, parts.kafka.names.topic(CATALOGUE)))[-count:]:
        cache.learn(record.value)
    assert len(cache.keys) == 4


async def test_peppers_are_needed_while_a_key_under_them_works(parts: Parts) -> None:
    await apply_document(parts)
    async with key_office(parts) as office:
        old = MadeKey.under({"old": b"o" * 32}, True)
        await office.once(lambda c: key_changes.create(c, old, WEB, office.change))
        async with office.database.connection() as connection:
            assert await peppers_in_use(connection) == {"old": (1, 0), "test1": (3, 0)}
        await office.rotate("acme-app", "web", timedelta(0))
        async with office.database.connection() as connection:
            assert await peppers_in_use(connection) == {"old": (0, 1), "test1": (4, 0)}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("revoked_at = NULL, version = version + 1", "is revoked, and stays so"),
        ("revoked_at = now() + interval '1 day', version = version + 1", "is revoked, and stays so"),
        ("replaced_by = NULL, version = version + 1", "is replaced by"),
        ("expires_at = NULL, version = version + 1", "is expired, and stays so"),
        ("updated_at = now()", "needs the next version"),
        ("secret_hash = ''", "permission denied"),
        ("project_id = 'zenith-app'", "permission denied"),
        ("scopes = '{}'", "permission denied"),
    ],
)
async def test_the_database_itself_keeps_what_is_over_over(parts: Parts, change: str, why: str) -> None:
    statement = "UPDATE catalogue.api_key SET " + change + " WHERE id = %s"  # noqa: S608
    await apply_document(parts)
    async with key_office(parts) as office:
        _, first = await office.create(WEB)
        await office.rotate("acme-app", "web", timedelta(0))
        await office.revoke(first.id)
    with psycopg.connect(parts.database_url) as connection:
        connection.execute("SET ROLE khata_catalogue")
        with pytest.raises(psycopg.Error, match=why):
            connection.execute(statement.encode(), (first.id,))


async def test_a_name_is_held_by_one_key_only(parts: Parts) -> None:
    await apply_document(parts)
    with psycopg.connect(parts.database_url) as connection, pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(
            "INSERT INTO catalogue.api_key (id, organisation_id, project_id, name, live, secret_hash, pepper_id) "
            "SELECT 'x', organisation_id, project_id, name, live, secret_hash, pepper_id FROM catalogue.api_key LIMIT 1"
        )
