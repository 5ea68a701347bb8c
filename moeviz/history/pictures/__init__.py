"""The pictures of the gallery in numbers: a result -> DataFrame, which `moeviz.charts.history` draws."""
