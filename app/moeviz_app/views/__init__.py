"""The pages, one a file, and the menu that leads to them; `topic.py` draws each topic of moeviz.charts.

The folder is not called `pages`: Streamlit runs each file of such a folder next to `main.py` as a page of its own.
"""
