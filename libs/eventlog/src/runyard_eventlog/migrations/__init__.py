"""Migrations of schema ``log``: raw SQL in ``sql/``, ordered by Alembic."""
