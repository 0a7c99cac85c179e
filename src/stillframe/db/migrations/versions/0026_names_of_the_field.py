"""A column, a kind of operation, steps and keys get the names that QEMU, libvirt and OpenStack have for them"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0022"
branch_labels = None
depends_on = None

_KEYS = {"foundation": "parent_image", "hastened": "expedited"}
_VERBS = {"give_back": "unmanage_file", "adopt": "manage_file"}
_ENDED = ("done", "undone")


def _renamed(document: Any) -> Any:
    if isinstance(document, dict):
        return {_KEYS.get(key, key): _renamed(value) for key, value in document.items()}
    return [_renamed(each) for each in document] if isinstance(document, list) else document


def _step(step: dict[str, Any]) -> dict[str, Any]:
    """The name of a verb is also its key, in the step and in its arguments."""
    verb = _VERBS.get(step["verb"])
    if verb is None:
        return dict(_renamed(step))
    return dict(_renamed({**step, "verb": verb, "args": {**step["args"], "key": verb}}))


def _evidence(evidence: dict[str, Any]) -> dict[str, Any]:
    """A key is a step's, alone or with what is noted of it behind a space."""
    first = {key: key.split(" ", 1)[0] for key in evidence}
    return {key.replace(name, _VERBS.get(name, name), 1): _renamed(evidence[key]) for key, name in first.items()}


def upgrade() -> None:
    with op.batch_alter_table("volumes") as batch:
        batch.alter_column("untidy", new_column_name="needs_cleanup", existing_type=sa.Boolean(), existing_nullable=False)
    connection = op.get_bind()
    for name in ("snapshots", "assisted_snapshots"):
        rows = sa.table(name, sa.column("id", sa.String), sa.column("consistency", sa.JSON(none_as_null=True)))
        for row in connection.execute(sa.select(rows).where(rows.c.consistency.is_not(None))).all():
            if row.consistency and "hastened" in row.consistency:
                changed = rows.update().where(rows.c.id == row.id)
                connection.execute(changed.values(consistency=_renamed(row.consistency)))
    names = ("id", "kind", "state")
    documents = ("intent", "plan", "evidence")
    found = sa.table(
        "operations", *(sa.column(name, sa.String) for name in names), *(sa.column(name, sa.JSON) for name in documents)
    )
    for row in connection.execute(sa.select(found).where(found.c.state.not_in(_ENDED))).all():
        changed = found.update().where(found.c.id == row.id)
        plan = [_step(step) for step in row.plan]
        connection.execute(changed.values(intent=_renamed(row.intent), plan=plan, evidence=_evidence(row.evidence)))
    op.execute("UPDATE operations SET kind = 'release_files' WHERE kind = 'let_go'")
    op.execute("UPDATE operation_totals SET kind = 'release_files' WHERE kind = 'let_go'")
