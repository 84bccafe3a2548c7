"""What each application role may do is exactly what stands here: enumerated, not sampled."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from devstack.stack import Stack

ROLES = ("khata_aggregator", "khata_invoicer", "khata_payments", "khata_catalogue", "khata_reader")

WRITES: dict[str, dict[str, str]] = {
    "khata_aggregator": {
        "audit.entry": "I",
        "messaging.consumer_offset": "IU",
        "messaging.dead_letter": "IU",
        "messaging.inbox": "I",
        "messaging.outbox": "IU",
        "usage.adjustment": "IU",
        "usage.anomaly": "I",
        "usage.backfill": "U",
        "usage.backfill_meter": "U",
        "usage.backfill_progress": "U",
        "usage.changed_window": "I",
        "usage.conflict": "I",
        "usage.correction": "IU",
        "usage.dirty_window": "IU",
        "usage.distinct_value": "IU",
        "usage.epoch": "U",
        "usage.finding": "IU",
        "usage.identity": "I",
        "usage.key_activity": "I",
        "usage.reconcile_run": "I",
        "usage.segment": "I",
        "usage.window": "IU",
        "usage.window_cursor": "IU",
    },
    "khata_catalogue": {
        "audit.entry": "I",
        "catalogue.api_key": "IU",
        "catalogue.meter": "I",
        "catalogue.organisation": "IU",
        "catalogue.project": "IU",
        "messaging.outbox": "IU",
        "usage.backfill": "I",
        "usage.backfill_meter": "I",
        "usage.backfill_progress": "I",
        "usage.cut": "I",
        "usage.epoch": "U",
    },
    "khata_reader": {},
}
MONEY_WRITERS = {
    "billing": {"khata_invoicer"},
    "ledger": {"khata_invoicer", "khata_payments"},
    "payments": {"khata_payments"},
}
APPEND_ONLY = (
    "audit.entry",
    "usage.segment",
    "usage.identity",
    "usage.conflict",
    "catalogue.meter",
    "ledger.posting",
    "ledger.entry",
)


@pytest.fixture(scope="module")
def schema(stack: Stack, template_database: str) -> str:
    """The session's template itself: whatever is tried here is refused, so nothing is left in it."""
    return make_conninfo(stack.addresses.database_url, dbname=template_database)


def held(connection: psycopg.Connection[tuple[object, ...]], role: str) -> dict[str, str]:
    """Letters of what the role may write, by table: Insert, Update (any column), Delete, Truncate."""
    rows = connection.execute(
        """
        SELECT n.nspname || '.' || c.relname,
               CASE WHEN has_any_column_privilege(%(role)s, c.oid, 'INSERT') THEN 'I' ELSE '' END ||
               CASE WHEN has_any_column_privilege(%(role)s, c.oid, 'UPDATE') THEN 'U' ELSE '' END ||
               CASE WHEN has_table_privilege(%(role)s, c.oid, 'DELETE') THEN 'D' ELSE '' END ||
               CASE WHEN has_table_privilege(%(role)s, c.oid, 'TRUNCATE') THEN 'T' ELSE '' END
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
        """,
        {"role": role},
    ).fetchall()
    return {str(table): str(letters) for table, letters in rows if letters}


@pytest.mark.parametrize("role", sorted(WRITES))
def test_a_role_writes_what_it_was_granted_and_nothing_else(schema: str, role: str) -> None:
    with psycopg.connect(schema) as connection:
        assert held(connection, role) == WRITES[role]


def test_nobody_deletes_and_money_is_written_by_its_own_roles_only(schema: str) -> None:
    with psycopg.connect(schema) as connection:
        for role in ROLES:
            for table, letters in held(connection, role).items():
                assert not set(letters) & {"D", "T"}, (role, table)
                schema = table.partition(".")[0]
                assert role in MONEY_WRITERS.get(schema, {role}), (role, table)
                if table in APPEND_ONLY:
                    assert letters == "I", (role, table)


def test_no_table_belongs_to_an_application_role_and_none_of_them_can_log_in_or_rule(schema: str) -> None:
    with psycopg.connect(schema) as connection:
        owners = connection.execute(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert len(owners) == 1
        assert owners[0][0] not in ROLES
        rows = connection.execute(
            "SELECT rolname, rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolcanlogin FROM pg_roles "
            "WHERE rolname = ANY(%s)",
            (list(ROLES),),
        ).fetchall()
        assert dict(rows) == dict.fromkeys(ROLES, False)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing.invoice SET state = 'cancelled'",
        "DELETE FROM usage.segment",
        "UPDATE usage.segment SET payload = ''",
        "INSERT INTO usage.seal VALUES ('a', 2026, 1, 1)",
        "SELECT secret_hash FROM catalogue.api_key",
        "UPDATE audit.entry SET actor = 'nobody'",
        "CREATE TABLE usage.mine (a int)",
    ],
)
def test_the_aggregator_tries_and_is_refused(schema: str, statement: str) -> None:
    with psycopg.connect(schema) as connection:
        connection.execute("SET ROLE khata_aggregator")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


@pytest.mark.parametrize("role", ["khata_aggregator", "khata_catalogue", "khata_invoicer", "khata_payments"])
def test_of_an_outbox_row_a_role_changes_only_that_it_was_published(schema: str, role: str) -> None:
    with psycopg.connect(schema) as connection:
        columns = connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'messaging.outbox'::regclass AND attnum > 0 "
            "AND has_column_privilege(%s, attrelid, attnum, 'UPDATE')",
            (role,),
        ).fetchall()
        assert columns == [("published_at",)]


GROUPS = [
    ("khata_payments", "khata.payments.webhooks", True),
    ("khata_payments", "prefix.khata.payments", True),
    ("khata_payments", "khata.aggregator", False),
    ("khata_payments", "prefix.khata.aggregator", False),
    ("khata_payments", "khata.payments.khata.aggregator", False),
    ("khata_payments", "khata.paymentsx", False),
    ("khata_aggregator", "prefix.khata.aggregator.activity", True),
    ("khata_aggregator", "khata.payments.webhooks", False),
]


@pytest.mark.parametrize(("role", "group", "own"), GROUPS)
def test_a_role_moves_the_offsets_of_its_own_groups_only(schema: str, role: str, group: str, own: bool) -> None:
    insert = (
        "INSERT INTO messaging.consumer_offset (consumer_group, topic, partition, next_offset) VALUES (%s, 't', 0, 5)"
    )
    update = "UPDATE messaging.consumer_offset SET next_offset = 0 WHERE consumer_group = %s"
    with psycopg.connect(schema) as connection:
        for statement in (insert, update):
            with connection.transaction(force_rollback=True):
                if statement is update:
                    connection.execute(insert, (group,))  # as the owner, who may
                connection.execute(f"SET LOCAL ROLE {role}".encode())
                if own:
                    assert connection.execute(statement, (group,)).rowcount == 1
                    continue
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match=f"{group} is not one of {role}"):
                    connection.execute(statement, (group,))
        connection.rollback()


def test_a_group_cannot_be_renamed_into_an_own_one(schema: str) -> None:
    with psycopg.connect(schema) as connection:
        connection.execute(
            "INSERT INTO messaging.consumer_offset (consumer_group, topic, partition, next_offset) "
            "VALUES ('khata.aggregator', 't', 0, 5)"
        )
        connection.execute("SET LOCAL ROLE khata_payments")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE messaging.consumer_offset SET consumer_group = 'khata.payments'")
        connection.rollback()


def test_each_purge_is_its_services_own(schema: str) -> None:
    with psycopg.connect(schema) as connection:
        rows = connection.execute(
            """
            SELECT role, proname FROM unnest(%s::text[]) AS role, pg_proc
            WHERE pronamespace = 'messaging'::regnamespace AND proname LIKE 'purge%%'
              AND has_function_privilege(role, pg_proc.oid, 'EXECUTE') ORDER BY 1, 2
            """,
            (list(ROLES),),
        ).fetchall()
    writers = [(role, "purge_outbox") for role in ROLES if role != "khata_reader"]
    own = [("khata_payments", "purge_inbox"), ("khata_payments", "purge_intents")]
    assert rows == sorted([*writers, *own, ("khata_aggregator", "purge_dead_letters")])


@pytest.mark.parametrize("statement", ["UPDATE audit.entry SET actor = 'nobody'", "DELETE FROM audit.entry"])
def test_not_even_the_owner_changes_an_audit_entry(schema: str, statement: str) -> None:
    with psycopg.connect(schema) as connection:
        connection.execute(
            "INSERT INTO audit.entry (actor, action, object_kind, object_id) VALUES ('a', 'b', 'c', 'd')"
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            connection.execute(statement.encode())
