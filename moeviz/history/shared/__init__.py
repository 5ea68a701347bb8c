"""Parts of several systems: data, gates, results in files."""
