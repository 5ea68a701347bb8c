"""Pictures of the history gallery, as its papers printed them. No topics, since a topic is about one trace."""
