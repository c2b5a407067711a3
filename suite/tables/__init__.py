"""Recorded tables: every policy of a space measured once, so that searches on it cost nothing and their optimum is known."""

from suite.tables.series import Series
from suite.tables.table import PolicyTable, check_table, read_table, table_sha256, write_table

__all__ = ["PolicyTable", "Series", "check_table", "read_table", "table_sha256", "write_table"]
