"""Model -> RoutingTrace. The only place with torch and transformers."""
