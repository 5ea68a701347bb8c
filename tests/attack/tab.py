"""A visitor's tab without a screen, for benchmarks: it opens the page, presses Run, and says what it was shown."""

import itertools
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Delta_pb2 import Delta
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

import moeviz
from moeviz.capture.models.load import LoadedModel
from moeviz_app.server.identity import COOKIE, RANDOM_BYTES, signed
from moeviz_app.widgets.components.explorer import packed_strip
from tests.support.servers import COOKIE_SECRET
from tests.support.visit import Visit

TOKENS_TO_GENERATE = "Tokens to generate after the prompt"
BOX, EXPLORER = "moeviz_ask", "moeviz_explorer"
SHOWN = ("texts", "experts", "layers")  # of a trace: what has to be the library's own
FINISHED, EARLY = ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_EARLY_FOR_RERUN


class Refused(Exception):
    """The page said why it does not run this now."""


class Broke(Exception):
    """The page showed an error that is a bug, or not what was asked for."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked for, and what the page has to show then."""

    text: str
    new_tokens: int
    shown: dict[str, Any] = field(hash=False)


def prompt_of(model: LoadedModel, text: str, new_tokens: int) -> Prompt:
    """That prompt, with the library's own trace of it, as the page would send it."""
    sampling = moeviz.Sampling(0.8 if new_tokens else 0.0, seed=0)  # what the page begins with
    trace = moeviz.trace(model, text, max_new_tokens=new_tokens, sampling=sampling)
    packed = packed_strip(trace)
    return Prompt(text, new_tokens, {name: packed[name] for name in SHOWN})


def new_visitor() -> dict[str, str]:
    """The headers of a browser that has been here before."""
    return {"Cookie": f"{COOKIE}={signed(secrets.token_urlsafe(RANDOM_BYTES), COOKIE_SECRET)}"}


class Tab(Visit):
    """A tab that runs prompts and remembers the widgets that it was shown."""

    def __init__(self, url: str, headers: dict[str, str] | None = None, **options) -> None:
        super().__init__(url, headers=headers, **options)
        self.widgets: dict[str, str] = {}  # ids by label, or by the name of a component
        self.kept: dict[str, ForwardMsg] = {}  # messages that the server does not send twice
        self.presses = itertools.count()
        self.trace: dict[str, Any] = {}  # the last that was shown
        self.sentences: list[str] = []
        self.broken, self.uploader = "", ""

    def come(self, page: str = "") -> None:
        """Open a page, and wait until all of it is there."""
        self.send(page=page)
        self.finish()

    def press_run(self, prompt: Prompt) -> None:
        """Press Run, and wait for nothing."""
        asked = BackMsg()
        states = asked.rerun_script.widget_states.widgets
        if TOKENS_TO_GENERATE in self.widgets:
            slider = states.add()
            slider.id = self.widgets[TOKENS_TO_GENERATE]
            slider.double_array_value.data.append(prompt.new_tokens)
        run = {"text": prompt.text, "press": f"{id(self)} {next(self.presses)}"}
        press = states.add()
        press.id = f"$$STREAMLIT_INTERNAL_KEY_{self.widgets[BOX]}__events"
        press.json_trigger_value = json.dumps([{"event": "run", "value": run}])
        self.trace, self.sentences = {}, []
        self.socket.send(asked.SerializeToString())

    def press(self, label: str) -> None:
        """Press a button, and wait for nothing."""
        asked = BackMsg()
        state = asked.rerun_script.widget_states.widgets.add()
        state.id, state.trigger_value = self.widgets[label], True
        self.socket.send(asked.SerializeToString())

    def run(self, prompt: Prompt) -> None:
        """Press Run, and wait for the trace. Raises `Refused`, and `Broke` where another trace came."""
        self.press_run(prompt)
        self.finish()
        if self.trace and self.trace["texts"][: len(prompt.shown["texts"])] == prompt.shown["texts"]:
            if self.trace != prompt.shown:
                raise Broke(f"mixed: other experts than the library's for {prompt.text!r}")
            return
        said = [sentence for sentence in self.sentences if "Try again" in sentence or "in line" in sentence]
        if said:
            raise Refused(said[-1])
        raise Broke(f"mixed: asked for {prompt.text!r}, shown {''.join(self.trace.get('texts', ['nothing']))[:80]!r}")

    def stop(self) -> None:
        """Press Stop: the script ends."""
        asked = BackMsg()
        asked.stop_script = True
        self.socket.send(asked.SerializeToString())

    def finish(self) -> None:
        """Listen to the end of the last script. Raises `Broke` where a page showed an error."""
        for message in self._messages():
            if message.WhichOneof("type") == "new_session":
                self.session = message.new_session.initialize.session_id
            if message.WhichOneof("type") == "delta":
                self._note(message.delta)
            if message.WhichOneof("type") == "script_finished" and message.script_finished != EARLY:
                break
        if self.broken:
            broken, self.broken = self.broken, ""
            raise Broke(broken)

    def _messages(self) -> Iterator[ForwardMsg]:
        while True:
            message = ForwardMsg()
            message.ParseFromString(self.socket.recv(timeout=120))
            if message.WhichOneof("type") == "ref_hash":
                message = self.kept[message.ref_hash]
            elif message.metadata.cacheable:
                self.kept = dict([*self.kept.items(), (message.hash, message)][-64:])
            yield message

    def _note(self, delta: Delta) -> None:
        element = delta.new_element
        kind = element.WhichOneof("type")
        if kind == "slider":
            self.widgets[element.slider.label] = element.slider.id
        elif kind == "button":
            self.widgets[element.button.label] = element.button.id
        elif kind == "file_uploader":
            self.uploader = element.file_uploader.id
        elif kind == "text":
            self.sentences.append(element.text.body)
        elif kind == "exception":
            self.broken = f"error on the page: {element.exception.type} {element.exception.message}"
        elif kind == "bidi_component":
            self._note_component(element.bidi_component)

    def _note_component(self, component: Any) -> None:
        if component.component_name.endswith(BOX):
            self.widgets[BOX] = component.id
        elif component.component_name.endswith(EXPLORER):
            data = json.loads(component.json or component.mixed.json)
            data = data.get("trace", data)
            if "scores" in data:  # not of a run that goes on
                self.trace = {name: data[name] for name in SHOWN}
