"""Images of a prompt on the first page: the files that go with it, and where their tokens went."""

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any

import streamlit as st

from moeviz.charts.images import kind_bars, kinds_in_words, patch_panels, untrained_in_words
from moeviz.errors import CaptureError
from moeviz.metrics.images import image_views, patches, shares_of_kinds
from moeviz.routing_trace import RoutingTrace
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.fair_queue import wait_for
from moeviz_app.jobs.model_catalog import torch_is_here
from moeviz_app.session import recent, session
from moeviz_app.session.visit import visit
from moeviz_app.widgets.chart_panel import altair_chart
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.run_panel import request_of

if TYPE_CHECKING:
    from moeviz.capture.models.load import LoadedModel

KINDS = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"]
KEPT = 8  # images of a visit
PANELS, FEW = 11, 3  # layers at a time: with the picture three rows of four, or one row where patches are many
MANY = 400  # patches
SHOWN = 512  # pixels of the longer side of the picture in a browser
NO_NAMES = (
    "An untrained router sorts patches by their colour already, so these shares and colours by themselves do not show "
    "that an expert has learned anything of images."
)


def choose_images(model: str, known: bool) -> tuple[str, ...]:
    """Offer a place for images next to the prompt, if the model takes them; return the SHA-256 of each, in order.

    known  whether the model's facts were found. The bytes stay in this visit.
    """
    if not (known and torch_is_here() and model_catalog.takes_images(model)):
        return ()
    serve = settings.SETTINGS.serve
    most = min(settings.IMAGE_MB[serve], settings.SETTINGS.max_upload_mb, st.get_option("server.maxUploadSize"))
    files = st.file_uploader(
        f"Images before the text: up to {settings.MOST_IMAGES}, of {most} MB and "
        f"{settings.MOST_PIXELS[serve] // 10**6} million pixels each",
        type=KINDS,
        accept_multiple_files=True,
        max_upload_size=most,
        key="images of the prompt",
    )
    if len(files) > settings.MOST_IMAGES:
        say(f"These are {len(files)} images; the first {settings.MOST_IMAGES} go with the prompt.")
    given = {sha256(data).hexdigest(): data for file in files[: settings.MOST_IMAGES] if (data := file.getvalue())}
    held = visit().images
    held.update(given)
    for name in [*held][: max(0, len(held) - KEPT)]:
        if name not in given:
            del held[name]
    if given:
        with explained():
            st.text(_in_tokens(model, [*given]))
    return tuple(given)


def _in_tokens(model: str, given: list[str]) -> str:
    """Return how many tokens each image will be, in words; counted once per visit."""
    held, key = visit().results, f"tokens of {given} for {model}"
    if key not in held:
        from moeviz.capture.run.images import pictures_of

        with st.spinner("Counting the tokens of the image …"):
            data = [visit().images[name] for name in given]
            read = pictures_of(data, most=settings.MOST_PIXELS[settings.SETTINGS.serve])
            held[key] = model_catalog.image_sizes(model, read)
    return str(held[key])


def show_images(trace: RoutingTrace) -> None:
    """Draw where the tokens of a prompt's images went, if it has any."""
    if not trace.images:
        return
    st.subheader("Where does the image go?", anchor=False)
    numbers = range(len(trace.images))
    number = 0
    if len(numbers) > 1:
        number = st.segmented_control("Image", numbers, default=0, key="image shown", required=True)
    facts = trace.images[number]
    of_image = (trace.tokens["image"] == number) & (trace.tokens["kind"] == "image")
    note = f" It is {facts.note}." if facts.note else ""
    st.text(f"{facts.width:,} × {facts.height:,} pixels became {int(of_image.sum()):,} image tokens.{note}")
    if not (views := image_views(trace, number)):
        say(f"{trace.model.name}: it is not known which part of the image each of its tokens reads.")
    else:
        _panels(trace, number, views)
    with explained():
        layer = session.chosen_layers("one")[0]
        frame = shares_of_kinds(trace.select(layers=[layer]))
        st.text(kinds_in_words(frame))
        beside = st.container()
        altair_chart(kind_bars(frame), key="image and text", alt=f"Shares of image and text tokens in layer {layer}")
        with beside:
            _untrained(trace)


def _untrained(trace: RoutingTrace) -> None:
    """Compare how well untrained routers tell the same tokens apart, or offer to.

    It takes another forward of the prompt: in one's own app it is made at once where the model is in memory.
    """
    of, found = session.result(key := f"untrained {id(trace)}") or (None, "")
    if of is not trace:
        st.caption(NO_NAMES)
        run = recent.run_of(trace)
        if run is None or not set(run.images) <= set(visit().images):
            return
        at_once = settings.SETTINGS.serve == settings.PRIVATE and model_service.at_hand(run.model, run.how)
        if not (at_once or st.button("Compare with untrained routers", help="The model reads the prompt once more.")):
            return
        model_catalog.bring_torch()
        model_service.begin_run()
        request = request_of(run)

        def work(loaded: "LoadedModel", _tell: Callable[[Any], None]) -> str:
            from moeviz.analyses.untrained import next_to_untrained

            return untrained_in_words(next_to_untrained(loaded, request))

        try:
            found = wait_for(model_service.run_on_model(run.model, run.how, work), lambda _told: None)
        except CaptureError as error:  # it would be the same the next time
            found = str(error)
        session.keep_result(key, (trace, found))
        st.rerun()
    st.text(found)


def _panels(trace: RoutingTrace, number: int, views: list[str]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        view = views[-1]
        if len(views) > 1:
            view = st.segmented_control("View", views, default=view, key="view of the image", required=True)
        layers = trace.model.layers
        step = PANELS if int((trace.tokens["view"] == view).sum()) <= MANY else FEW
        stretches = [layers[start : start + step] for start in range(0, len(layers), step)]
        part = stretches[0]
        if len(stretches) > 1:
            part = st.selectbox("Layers", stretches, format_func=lambda of: f"{of[0]} to {of[-1]}", key="layers of it")
        facts = trace.images[number]
        data = visit().images.get(facts.sha256)
        underneath = data is not None and st.toggle("The picture underneath", key="picture underneath")
    with explained():
        part = trace.select(layers=part)
        picture = "" if data is None else _as_address(data, facts.sha256)
        drawn = patch_panels(
            patches(part, number, view),
            (facts.width, facts.height),
            max(part.model.num_experts),
            picture,
            underneath,
        )
        with st.container(key="patches"):  # which scrolls sideways on a phone
            altair_chart(drawn, alt="Each patch in its first expert's colour, by layer", width="content")
        st.caption(
            "Each patch has the colour of its first expert. Point at one for the expert and its weight, and to find it "
            "in every layer. The same colour in two layers is two experts."
            + ("" if picture else " The trace keeps no pixels, so the picture itself is not here.")
        )


def _as_address(data: bytes, name: str) -> str:
    """Return a small copy of an image as a data address; made once per visit."""
    held = visit().results
    key = f"image {name}"
    if key not in held:
        from moeviz.capture.run.images import pictures_of

        small = pictures_of([data], most=settings.MOST_PIXELS[settings.SETTINGS.serve])[0].pixels.copy()
        small.thumbnail((SHOWN, SHOWN))
        file = BytesIO()
        small.save(file, "JPEG", quality=85)
        held[key] = f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"
    return str(held[key])
