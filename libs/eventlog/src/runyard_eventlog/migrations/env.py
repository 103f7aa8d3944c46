"""Runs the revisions on the connection that ``runyard_eventlog.migrate`` hands over."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="revision",
    version_table_schema="log",
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
