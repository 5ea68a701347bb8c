"""The parts that pages are put together from: charts with what belongs to them, pickers, the panel of a run."""
