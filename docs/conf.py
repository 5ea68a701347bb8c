"""How the site is built: Sphinx, MyST for Markdown, autodoc for docstrings, Furo. Nothing in it asks a foreign host."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / folder) for folder in ("docs", ".", "kernels", "tests", "tests/support")]

import transformers  # noqa: E402
from _ext import docstrings, pages, pictures, try_page  # noqa: E402

import moeviz  # noqa: E402

transformers.logging.disable_progress_bar()

project = "moeviz"
copyright = "the moeviz contributors, Apache License 2.0"
release = moeviz.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_ext", "try"]
default_role = "code"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "moeviz"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["moeviz.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#332288", "color-brand-content": "#332288"},
    "dark_css_variables": {"color-brand-primary": "#a9a0f0", "color-brand-content": "#a9a0f0"},
}


def setup(app):
    """Fill in what is generated, and read docstrings as Markdown."""
    app.add_config_value("site_of_try", "../index.html", "")  # what try/ links to, as `make docs` says
    app.connect("builder-inited", pictures.begin)
    app.connect("build-finished", try_page.finish)
    app.connect("source-read", pages.fill)
    app.connect("autodoc-process-docstring", docstrings.as_markdown)
    app.add_directive("markdown", docstrings.Markdown)
