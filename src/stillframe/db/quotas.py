"""Quotas: limits set for a project; what nobody set comes from the configuration."""

from sqlalchemy import Connection, bindparam, select
from sqlalchemy import delete as sql_delete

from stillframe.db.tables import quota_classes, quotas

_OF_PROJECT = select(quotas.c.resource, quotas.c.hard_limit).where(quotas.c.project_id == bindparam("project"))


def limits(connection: Connection, project_id: str) -> dict[str, int]:
    """Returns by resource the limits that were set for the project."""
    return dict(connection.execute(_OF_PROJECT, {"project": project_id}).tuples().all())


def set_limits(connection: Connection, project_id: str, wanted: dict[str, int]) -> None:
    """Sets limits of a project by resource; -1 means none. The others stay."""
    for resource, limit in wanted.items():
        connection.execute(sql_delete(quotas).where(quotas.c.project_id == project_id, quotas.c.resource == resource))
        connection.execute(quotas.insert().values(project_id=project_id, resource=resource, hard_limit=limit))


def clear(connection: Connection, project_id: str) -> None:
    """Deletes the limits of a project."""
    connection.execute(sql_delete(quotas).where(quotas.c.project_id == project_id))


def class_limits(connection: Connection, class_name: str) -> dict[str, int]:
    """Returns by resource the limits that were set for a quota class."""
    query = select(quota_classes.c.resource, quota_classes.c.hard_limit).where(quota_classes.c.class_name == class_name)
    return dict(connection.execute(query).tuples().all())


def set_class_limits(connection: Connection, class_name: str, wanted: dict[str, int]) -> None:
    """Sets limits of a quota class by resource; -1 means none. The others stay."""
    for resource, limit in wanted.items():
        same = (quota_classes.c.class_name == class_name, quota_classes.c.resource == resource)
        connection.execute(sql_delete(quota_classes).where(*same))
        connection.execute(quota_classes.insert().values(class_name=class_name, resource=resource, hard_limit=limit))
