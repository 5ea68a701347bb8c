"""Numbers about a RoutingTrace: each public function takes one and returns a tidy frame. No charts, no torch."""
