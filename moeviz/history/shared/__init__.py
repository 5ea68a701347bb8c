"""What several systems are made of: data, gates, results in files, claims."""
