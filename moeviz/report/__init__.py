"""A trace for people to keep: an HTML page, a notebook view, `trace.plot`."""
