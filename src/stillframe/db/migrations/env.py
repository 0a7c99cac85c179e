"""Run by alembic: one transaction over the database that ``upgrade`` was given."""

from alembic import context

from stillframe.db.tables import metadata

with context.config.attributes["database"].migrate() as connection:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    context.run_migrations()
