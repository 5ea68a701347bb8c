"""How routers are recorded while a model runs."""
