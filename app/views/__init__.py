"""The pages, one a file; each topic of moeviz.charts is drawn by topic.py."""
