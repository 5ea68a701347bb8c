"""What the papers say, beside what comes out here: a file a system, each with `claims(quick)`."""
