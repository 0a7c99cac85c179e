"""Quotas: limits set for a project; what nobody set comes from the configuration."""

from sqlalchemy import Connection, bindparam, select
from sqlalchemy import delete as sql_delete

from stillframe.db.rows import many
from stillframe.db.tables import quotas

_OF_PROJECT = select(quotas.c.resource, quotas.c.hard_limit).where(quotas.c.project_id == bindparam("project"))


def limits(connection: Connection, project_id: str) -> dict[str, int]:
    rows = many(connection, _OF_PROJECT, project=project_id)
    return {row["resource"]: row["hard_limit"] for row in rows}


def set_limits(connection: Connection, project_id: str, wanted: dict[str, int]) -> None:
    for resource, limit in wanted.items():
        connection.execute(sql_delete(quotas).where(quotas.c.project_id == project_id, quotas.c.resource == resource))
        connection.execute(quotas.insert().values(project_id=project_id, resource=resource, hard_limit=limit))


def clear(connection: Connection, project_id: str) -> None:
    connection.execute(sql_delete(quotas).where(quotas.c.project_id == project_id))
