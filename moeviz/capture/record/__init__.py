"""Record routers while a model runs."""
