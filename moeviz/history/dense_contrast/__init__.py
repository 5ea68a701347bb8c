"""A mixture and its dense twins: one as fast, one as large."""
