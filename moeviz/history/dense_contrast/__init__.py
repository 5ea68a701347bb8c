"""A mixture beside its dense twins: one as fast, one as large."""
