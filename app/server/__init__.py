"""Before any page: who gets in, what every response tells a browser, what is counted and logged."""
