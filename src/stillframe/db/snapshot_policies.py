"""Snapshot policies: what is taken when, and how much of it is kept."""

from datetime import datetime
from typing import Any, Unpack

from sqlalchemy import ColumnElement, Connection, func, select, update
from sqlalchemy import delete as sql_delete

from stillframe.db.queries import Page, many, one, page, touched
from stillframe.db.rows import SnapshotPolicyRow
from stillframe.db.tables import snapshot_policies as policies
from stillframe.db.values import NewSnapshotPolicy, SnapshotPolicyChanges

_UNTOUCHED: dict[str, Any] = {"updated_at": policies.c.updated_at}  # that is for what people change


def insert(connection: Connection, row: NewSnapshotPolicy) -> None:
    """Inserts a policy. Raises IntegrityError for an id that is known."""
    connection.execute(policies.insert(), row)


def get(connection: Connection, policy_id: str, project_id: str | None) -> SnapshotPolicyRow | None:
    """Returns the row, or None; ``project_id`` None sees every project."""
    return one(SnapshotPolicyRow, connection, select(policies).where(policies.c.id == policy_id, *_mine(project_id)))


def list_page(connection: Connection, project_id: str | None, wanted: Page) -> list[SnapshotPolicyRow]:
    """Returns one page of the policies of a project, or of all for None. Raises NotFound for an unknown marker."""
    return page(SnapshotPolicyRow, connection, policies, _mine(project_id), wanted)


def count_of_server(connection: Connection, server_id: str) -> int:
    """Returns how many policies the server has, disabled ones too."""
    query = select(func.count()).select_from(policies).where(policies.c.server_id == server_id)
    return int(connection.execute(query).scalar_one())


def enabled(connection: Connection) -> list[SnapshotPolicyRow]:
    """Returns the policies that are enabled, oldest first."""
    return many(SnapshotPolicyRow, connection, select(policies).where(policies.c.enabled).order_by(policies.c.seq))


def due(connection: Connection, now: datetime) -> list[SnapshotPolicyRow]:
    """Returns the enabled policies whose next run is not later than ``now`` (naive UTC), the most overdue first."""
    query = select(policies).where(policies.c.enabled, policies.c.next_run <= now)
    return many(SnapshotPolicyRow, connection, query.order_by(policies.c.next_run, policies.c.seq))


def claim(connection: Connection, row: SnapshotPolicyRow, now: datetime, until: datetime) -> bool:
    """Takes the run of a row that was read before: nobody else finds it due before ``until``. False: somebody else did."""
    query = update(policies).where(policies.c.id == row["id"], policies.c.enabled, policies.c.next_run == row["next_run"])
    values = {"next_run": until, "due_at": row["due_at"] or row["next_run"], "trying_since": row["trying_since"] or now}
    return touched(connection, query.values(**values, **_UNTOUCHED)) == 1


def settle(connection: Connection, policy_id: str, held: datetime, /, **values: Unpack[SnapshotPolicyChanges]) -> bool:
    """Records what came of a run that was claimed until ``held``; False when somebody changed the policy meanwhile."""
    query = update(policies).where(policies.c.id == policy_id, policies.c.next_run == held)
    return touched(connection, query.values(**values, **_UNTOUCHED)) == 1


def note(connection: Connection, policy_id: str, /, **values: Unpack[SnapshotPolicyChanges]) -> None:
    """Records what the worker found."""
    connection.execute(update(policies).where(policies.c.id == policy_id).values(**values, **_UNTOUCHED))


def change(connection: Connection, policy_id: str, /, **values: Unpack[SnapshotPolicyChanges]) -> None:
    """Changes what a person changed, and when."""
    connection.execute(update(policies).where(policies.c.id == policy_id).values(**values))


def delete(connection: Connection, policy_id: str) -> None:
    """Deletes the policy; its sets stay."""
    connection.execute(sql_delete(policies).where(policies.c.id == policy_id))


def _mine(project_id: str | None) -> list[ColumnElement[bool]]:
    return [] if project_id is None else [policies.c.project_id == project_id]
