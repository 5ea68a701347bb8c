"""The systems of the history gallery -> RoutingTrace: a file a system, each with `trace_of(result)`."""
