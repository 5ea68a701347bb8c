"""Does the history run as its papers say? The claims of each system, and its mechanisms broken, where they must miss.

A file a system, called as its folder in `moeviz/history/`: `claims(quick, seed)` measures, and each of `CONTROLS`
breaks a mechanism. `moeviz history check` runs them in a checkout, and `python tests/history_checks NAME` one system's.
"""
