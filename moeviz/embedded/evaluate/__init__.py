"""What the embedded model can do, from the files that ship alone: `python -m moeviz.embedded.evaluate`."""
