"""The pages, one a file, and the menu that leads to them; `topic.py` draws each topic of moeviz.charts."""
