"""The first page: a prompt goes in, its trace comes out."""

import streamlit as st
from moeviz_app import settings, shared, state
from moeviz_app.asked import Run, usual_temperature
from moeviz_app.explore import explore
from moeviz_app.facts import model_facts
from moeviz_app.links import record
from moeviz_app.show import explained
from moeviz_app.tour import tour

EXAMPLES = {
    "Mixed": "The letter said: « Nous partons demain matin. » Er antwortete: Ich komme mit.\n"
    "def total(prices):\n    return sum(prices)\n12 + 30 = 42",
    "English": "In the beginning of the year the sea was calm, and the old captain walked along the shore.",
    "French": "Au commencement de l'année, la mer était calme, et le vieux capitaine marchait sur la plage.",
    "German": "Am Anfang des Jahres war das Meer ruhig, und der alte Kapitän ging jeden Abend am Ufer entlang.",
    "Python": 'import os\n\n\ndef read_lines(path):\n    """Return all lines of the file."""\n'
    "    with open(path) as f:\n        return [line.strip() for line in f]\n",
    "JSON": '{"name": "Ada", "born": 1815, "languages": ["English", "French"], "alive": false}',
    "SQL": "SELECT name, COUNT(*) FROM orders WHERE price > 100 GROUP BY name ORDER BY name;",
    "Arithmetic": "12 + 30 = 42\n7 * 8 = 56\n100 - 37 = 63\n144 / 12 = 12\n",
}


def run_page() -> None:
    """Prompt, model, Run; then what the routers decided."""
    st.title("See which experts of a language model fire, token by token", anchor=False)
    form, about = st.columns([3, 2], gap="large")
    with form:
        _prompt()
        asked = st.button("Run", type="primary", shortcut="mod+enter")
        happening = st.empty()  # progress while it runs, the reason where it fails, nothing else
    with about:
        name = _model_choice()
        _how()
        facts = st.container()
        options = _options()
    with facts:
        known = _facts(name)
    if asked and known:
        with happening.container(), explained():
            _run(name, *options)
    if state.current_trace() is None:
        _first_visit()
    else:
        explore()


def _first_visit() -> None:
    st.info(
        "**Run** sends the prompt above through the model. Each token is then coloured by the expert that it goes to "
        "first; click a token to see its experts in all layers. Do you already have a trace file? Open it on the "
        "Traces page."
    )
    if st.button("One-minute tour", icon=":material/explore:"):
        tour()


def _prompt() -> None:
    state.start_with(state.PROMPT, EXAMPLES["Mixed"])
    st.text_area(
        "Prompt", height=150, max_chars=settings.SETTINGS.max_prompt_chars, key=state.PROMPT, persist_state="session"
    )
    st.pills(
        "Or try an example",
        list(EXAMPLES),
        key=state.EXAMPLE,
        on_change=state.use_example,
        args=(EXAMPLES,),
        wrap=True,
    )


def _model_choice() -> str:
    free = settings.may_name_any_model()
    return st.selectbox(
        "Model: choose one, or type a folder or a Hugging Face id" if free else "Model",
        settings.SETTINGS.models,
        accept_new_options=free,
        key=state.MODEL,
        persist_state="session",
        on_change=_as_usual,
    )


def _as_usual() -> None:
    """Another model was chosen: it writes as that one does unless asked otherwise."""
    state.set_value(state.TEMPERATURE, usual_temperature(state.value(state.MODEL)))


def _how() -> None:
    """In which dtype and on which device the model is opened."""
    with st.expander("Loading options"):
        for key, label in ((state.DTYPE, "dtype"), (state.DEVICE, "Device, as accelerate names it")):
            st.selectbox(
                label,
                state.HOW[key],
                index=None,
                placeholder="as the checkpoint says" if key == state.DTYPE else "a GPU if there is one",
                key=key,
                persist_state="session",
            )
        st.selectbox(
            "Routers run by",
            state.KERNELS_CHOICES,
            format_func={"on": "moeviz's kernels", "off": "the model's own code"}.get,
            index=None,
            placeholder="moeviz's kernels on a GPU, where they know the model's routers",
            help="The kernels record as they decide, and are compared with the model's own routers in every run.",
            key=state.KERNELS,
            persist_state="session",
        )


def _facts(name: str) -> bool:
    """What is known of the model before it runs; False, and the reason on the page, where there is no such model."""
    with explained():
        how = state.how()
        needed_and_free = shared.memory(name, how)
        model_facts(shared.model_facts(name), needed_and_free, shared.context_length(name))
        if len(sites := _sites(name)) > 1:
            st.radio("Which routers to record", sites, key=state.SITE, horizontal=True, persist_state="session")
        return True
    return False


def _sites(name: str) -> list[str]:
    """The kinds of routers that a model has: those of its encoder and its decoder, of attention and feed-forward."""
    return shared.model_facts(name).site.split(" and ")


def _options() -> tuple[int, float, int, str | None]:
    """How many tokens to generate, at what temperature, from which seed; or as the checkpoint's own settings say."""
    state.start_with(state.TEMPERATURE, usual_temperature(state.value(state.MODEL)))
    with st.expander("Also generate tokens"):
        new_tokens = st.slider(
            "Tokens to generate", 0, settings.SETTINGS.max_new_tokens, key=state.NEW_TOKENS, persist_state="session"
        )
        decoding = st.selectbox(
            "How each token is chosen",
            state.DECODING_CHOICES,
            format_func={"checkpoint": "as the checkpoint's own settings say"}.get,
            index=None,
            placeholder="by the temperature and the seed below",
            help="Many checkpoints come with settings for generation: a temperature, penalties for repetition and "
            "others. With them the model writes as it does in transformers' generate().",
            key=state.DECODING,
            persist_state="session",
            disabled=new_tokens == 0,
        )
        temperature = st.slider(
            "Temperature: 0 always takes the most likely token; higher is more random",
            0.0,
            settings.HIGHEST_TEMPERATURE,
            key=state.TEMPERATURE,
            persist_state="session",
            disabled=new_tokens == 0 or decoding is not None,
        )
        seed = st.number_input(
            "Seed: the same seed gives the same tokens",
            0,
            settings.HIGHEST_SEED,
            key=state.SEED,
            persist_state="session",
            disabled=new_tokens == 0 or (temperature == 0 and decoding is None),
        )
    return new_tokens, temperature, seed, decoding


def _run(name: str, new_tokens: int, temperature: float, seed: int, decoding: str | None) -> None:
    most = settings.SETTINGS.max_new_tokens  # whatever a browser sends
    how = state.how()
    site = state.value(state.SITE) if len(_sites(name)) > 1 else None
    prompt = state.value(state.PROMPT)
    kernels = state.value(state.KERNELS)
    tokens = min(new_tokens, most)
    temperature = temperature if tokens else 0.0  # an address says it where it counts
    record(Run(prompt, name, tokens, temperature, seed, how.dtype, how.device_map, site, kernels, decoding))
