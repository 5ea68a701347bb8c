"""Entry point: `streamlit run app/moeviz_app/main.py`. The server is assembled here, and each page begins here."""

import sys
from importlib.util import find_spec
from pathlib import Path

import streamlit as st

HOME = Path(__file__).resolve().parent
found = find_spec("moeviz_app")
if found is None or Path(found.origin).resolve().parent != HOME:  # a checkout that is not installed: it brings all
    sys.path[:0] = [str(folder) for folder in (HOME.parent, HOME.parents[1], HOME.parents[1] / "kernels")]

if __name__ == "__main__":  # Streamlit runs this file, whenever a visitor does something
    from moeviz_app.jobs.render_lock import render_slot
    from moeviz_app.server.identity import visitor
    from moeviz_app.views.layout import draw

    with render_slot((asker := visitor()).id, asker.is_browser):
        draw()
elif __name__ == "first process":  # `moeviz app` serves others than oneself
    from moeviz_app.processes import main

    main()
else:  # Streamlit's server has imported it, once
    from moeviz_app.server.asgi import app_options

    def stop_jobs(seconds: float) -> bool:
        """Stop the runs that go on, if a page has begun any; see `model_service.stop`."""
        service = sys.modules.get("moeviz_app.jobs.model_service")  # imported by the first page
        return service is None or service.stop(seconds)

    app = st.App(__file__, **app_options(stop_jobs))
