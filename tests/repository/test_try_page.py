"""`try/`: the model in the page decides as `moeviz.trace` does, and the page asks nobody and says what it does."""

import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from functools import partial
from random import Random

import numpy as np
import pytest
from accessible import faults
from playwright.sync_api import expect
from site_of_docs import DOCS, served
from try_page import NEAR, ask, begin, difference, run

import moeviz
from moeviz.capture.run.token_texts import token_texts
from moeviz.embedded.evaluation import evaluation_set
from moeviz.embedded.recorded_routing import reference_routing
from moeviz.metrics.who_takes import tokens_of_word, who_takes, who_takes_sentence
from moeviz_app.jobs.reread import compact
from moeviz_app.widgets.components.explorer import packed, packed_muted

sys.path.append(str(DOCS))
from _ext import try_page

pytestmark = pytest.mark.docs
SHORT = "Il fait froid à Paris. « Oui. »\n12 + 30 = 42"
# JavaScript's \s has U+FEFF and lacks U+0085; the rest is what a split by bytes gets wrong.
ODD = (
    "\ufeffBOM a\ufeff b nel\x85x\x85\x85 y\x85\x85",
    "  \ufeff",
    "  \x85",
    " \ufeff\x85 \ufeff1\x85.\ufeff\n",
    "日本語のテキスト。👩‍👩‍👧 👍🏽 e\u0301 \u202ertl\u202c עברית \U0010ffff",
    "<s>a</s><pad> <s> < s> \x00\x01 \t\r\n\r\n  x \u3000\u2028 \u180e",
    "don't I'LL ½ ⅷ ٣ ⟨é 1/2⟩ Ġ Ċ \ufffd",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page as the site has it."""
    made = tmp_path_factory.mktemp("site") / "try"
    try_page.write(made)
    return made


@pytest.fixture(scope="module")
def address(folder):
    with served(folder) as url:
        yield url


@pytest.fixture(scope="module")
def embedded():
    return moeviz.load_model()


@pytest.fixture
def page(visit, address, folder):
    """Any page of the same origin, without the model, under the same policy."""
    page = visit.blank().page
    page.route("**/page.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    page.goto(address)
    return page


@pytest.fixture
def model(page, folder):
    begin(page, model_folder(folder))
    return page


def model_folder(folder) -> str:
    (found,) = folder.glob("model-*")
    return found.name


def odd_texts(number: int) -> list[str]:
    """Strings of any code points, common ones oftener."""
    draw, common = Random(7), "ab 1\n\r\t .,é日א\ufeff\x85 "
    points = [*range(0xD800), *range(0xE000, 0x30000)]
    letter = partial(draw.choices, (lambda: chr(draw.choice(points)), lambda: draw.choice(common)), (0.4, 0.6))
    return ["".join(make() for make in letter(k=draw.randint(1, 40))) for _ in range(number)]


def within(found: dict) -> bool:
    """Ids equal but for near ties, weights and probabilities within 1e-5."""
    small = all(found[name] < NEAR for name in ("weights", "next p"))
    return not found["ids"] and not found["next"] and small and len(found["ties"]) <= found["near"]


@pytest.mark.browser
@pytest.mark.parametrize("plain", [False, True], ids=["WebAssembly", "JavaScript"])
def test_routers_decide_as_in_python(page, folder, embedded, plain):
    begin(page, model_folder(folder), plain=plain)
    for text in (SHORT, ODD[4], evaluation_set()[17].text[:300]):
        found = difference(moeviz.trace(embedded, text, next_tokens=True), run(page, text))
        assert within(found) and not found["lens"] and found["lens p"] < NEAR, found


@pytest.mark.browser
def test_a_model_that_is_nearly_the_same_is_noticed(page, folder, embedded):
    def other(route):
        config = json.loads((folder / model_folder(folder) / "config.json").read_text())
        config["rope_parameters"]["rope_theta"] = 10_010
        route.fulfill(json=config)

    page.route("**/config.json", other)
    begin(page, model_folder(folder))
    assert not within(difference(moeviz.trace(embedded, SHORT, next_tokens=True), run(page, SHORT)))


@pytest.mark.browser
def test_what_is_written_is_what_python_writes_and_a_seed_repeats_what_is_drawn(model, embedded):
    trace, written = moeviz.trace(embedded, SHORT, max_new_tokens=16, next_tokens=True), run(model, SHORT, more=16)
    assert written["ids"] == trace.tokens["token_id"].tolist() and within(difference(trace, written))
    one, same, other = (run(model, SHORT, more=16, temperature=1, seed=seed)["ids"] for seed in (5, 5, 6))
    assert one == same != other
    cold = run(model, SHORT, more=16, temperature=1e-4, seed=5)["ids"]
    assert cold == written["ids"]


@pytest.mark.browser
def test_muted_experts_and_deciding_words_are_those_of_python(model, embedded):
    ids = run(model, SHORT)["ids"]
    trace = moeviz.trace(embedded, SHORT, intervention=moeviz.Mute({2: [4, 0], 4: [1]}), next_tokens=True)
    muted = ask(model, mute=[[2, 4], [2, 0], [4, 1]], ids=ids)
    moved = muted["experts"] != trace.experts
    assert not moved.any() and np.abs(muted["weights"] - trace.weights).max() < NEAR
    assert muted["next"]["texts"] == [[text for text, _ in trace.next_tokens.after(token)] for token in range(len(ids))]
    assert {*muted["experts"][2].ravel()}.isdisjoint({0, 4})

    mine = ask(model, decide=try_page.made()["decide"], ids=ids)
    python = compact(moeviz.occlude(embedded, SHORT))
    assert {name: mine[name] for name in ("layers", "tokens", "wide", "fillers", "flips", "to")} == {
        name: value for name, value in python.items() if name != "falls"
    }
    falls = [np.frombuffer(b64decode(one["falls"]), "<i2").astype(int) for one in (mine, python)]
    assert np.abs(falls[0] - falls[1]).max() <= 1 and falls[1].any()


PACK = """async ([made, text, more, mutes]) => {
  const { Packer } = await import(new URL("packed.js", document.querySelector("script[type=module]").src).href);
  const packer = new Packer(made), asked = (message) => new Promise((done) => {
    window.model.onmessage = ({ data }) => done(data.run ?? data.mute);
    window.model.postMessage({ ...message, number: (window.number = (window.number ?? 0) + 1) });
  });
  const trace = await asked({ run: text, more, most: 1024 });
  const muted = await asked({ mute: mutes, ids: trace.ids });
  return [packer.packed(trace, 1), packer.routing(muted)];
}"""
ARRAYS = {"weights": ("<f4", NEAR), "scores": ("<u2", 1), "p": ("<f4", NEAR), "lensP": ("<f4", NEAR)}


def alike(mine, python, name=""):
    """Assert it: numbers in base64 may differ in their last places."""
    if isinstance(python, dict) and name not in ("chart", "marks"):
        for key in python:
            alike(mine[key], python[key], key)
    elif name in ARRAYS and python is not None:
        kind, most = ARRAYS[name]
        both = [np.frombuffer(b64decode(one), kind).astype(float) for one in (mine, python)]
        assert both[0].shape == both[1].shape and np.abs(both[0] - both[1]).max() <= most, name
    else:
        assert mine == (json.loads(json.dumps(python))), name


def alike_next(mine, python):
    """Assert it of next tokens, which go by rows of a list of texts in no order; two may be as likely."""
    for ids, p in (("ids", "p"), ("lensIds", "lensP")):
        alike(mine[p], python[p], p)
        if python[ids] is not None:
            both = [np.array(one["texts"], object)[np.frombuffer(b64decode(one[ids]), "<i4")] for one in (mine, python)]
            assert (both[0] != both[1]).mean() < 0.001


@pytest.mark.browser
@pytest.mark.parametrize(
    ("text", "more"),
    [(f"{SHORT}\n\n e\u0301\u202e 日本", 8), ("a, b\n" * 28, 0), ("one, two.\n" * 32, 16)],
    ids=["ids in cells", "lines", "positions"],
)
def test_the_explorer_gets_what_python_packs(model, embedded, text, more):
    made = json.loads(json.dumps(try_page.made()))
    trace = moeviz.trace(embedded, text, max_new_tokens=more, next_tokens=True)
    python = packed(trace)
    mine, muted = model.evaluate(PACK, [made, text, more, [[3, 2]]])
    # Names of data differ, and the order of texts.
    rows = [dict(one["spec"]["chart"]).pop("datasets") for one in (mine, python)]
    assert {*map(json.dumps, rows[0].values())} == {*map(json.dumps, rows[1].values())}
    for left_out in ("id", "loader"):
        del python[left_out]
    alike_next(mine.pop("next"), python.pop("next"))
    for one in (mine, python):
        one["spec"]["chart"] = re.sub(r"data-[0-9a-f]{32}", "data", json.dumps(one["spec"]["chart"], sort_keys=True))
    alike(mine, python)
    if not more:
        without = packed_muted(
            trace, moeviz.trace(embedded, text, intervention=moeviz.Mute({3: [2]}), next_tokens=True)
        )
        alike_next(muted.pop("next"), without.pop("next"))
        alike(muted, without)


@pytest.mark.browser
def test_the_tokenizer_is_that_of_python(page, folder, embedded):
    texts = [*ODD, *odd_texts(400)]
    script = """async ([folder, texts]) => {
      const from = document.querySelector("script[type=module]").src;
      const { Tokenizer } = await import(new URL("tokenizer.js", from).href);
      const file = await (await fetch(new URL(`../../../${folder}/tokenizer.json`, from))).json();
      const tokenizer = new Tokenizer(file);
      return texts.map((text) => { const ids = tokenizer.encode(text); return [ids, tokenizer.texts(ids)]; });
    }"""
    found = page.evaluate(script, [model_folder(folder), texts])
    ids = [embedded.tokenizer(text)["input_ids"] for text in texts]
    assert [one for one, _ in found] == ids
    assert [words for _, words in found] == [list(token_texts(embedded.tokenizer, one)) for one in ids]


@pytest.fixture
def visitor(visit, address):
    """Somebody who comes to the page."""

    def come(query: str = "", *, size: str = "desktop", scheme: str = "light", before=None):
        page = visit.blank(size, scheme, own=before is not None).page
        if before is not None:
            before(page)
        page.goto(f"{address}/{query}")
        expect(page.locator("#explorer .map[data-drawn]")).to_be_visible()
        return page

    return come


@pytest.mark.browser
@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_a_text_is_run_muted_and_asked_which_word_decided(visitor, size, scheme):
    page = visitor(size=size, scheme=scheme)
    said = page.locator("#state")
    page.get_by_label("Prompt").fill("Ich komme mit.")
    page.get_by_label("write").select_option("8")
    page.get_by_label("choosing").select_option("1")
    page.get_by_label("seed").fill("")  # and it is not asked for any more
    page.get_by_label("choosing").select_option("0")
    page.get_by_role("button", name="Run").click()
    expect(said).to_contain_text("tokens in")
    expect(page.locator("#explorer .token")).to_have_count(15)
    expect(page.locator("#explorer .bar-row:visible")).to_have_count(5)
    glass = page.locator("#explorer .lit-glass").first
    name = glass.get_attribute("data-spot")
    glass.press("Enter")
    again = page.locator(f"#explorer [data-spot='{name}']")
    expect(again).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#explorer .next .told")).to_contain_text("first choices change")
    page.get_by_role("button", name="Bring the muted experts back").click()
    expect(again).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="Which word decided?").click()
    expect(page.locator("#explorer p.decided")).to_contain_text(re.compile("Replace one word|No single earlier word"))
    assert not faults(page)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0


@pytest.mark.browser
def test_an_expert_opens_beside_the_text_and_by_its_address(visitor):
    page = visitor("#expert?layer=3&expert=2")
    panel = page.get_by_role("dialog")
    expect(panel.get_by_role("heading")).to_have_text("layer 3 · expert 2")
    expect(panel).to_contain_text("In the text above it took")
    expect(panel).to_contain_text("uniform")
    assert not faults(page)
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    page.locator("#explorer a.chip").first.press("Enter")
    expect(panel.get_by_role("heading")).to_contain_text("expert 0")


SAVES = "Object.defineProperty(navigator, 'connection', { value: { saveData: true } })"


@pytest.mark.browser
def test_where_data_are_dear_the_model_is_loaded_when_it_is_asked_for(visitor, folder):
    asked = []

    def before(page):
        page.add_init_script(SAVES)
        page.on("request", lambda request: asked.append(request.url))

    page = visitor(before=before)
    expect(page.locator("#atlas a.card").first).to_be_visible()
    size = sum(file.stat().st_size for file in (folder / model_folder(folder)).iterdir())
    button = page.get_by_role("button", name=f"Load the model ({size / 1e6:.0f} MB)")
    expect(page.get_by_role("button", name="Run")).to_be_disabled()
    assert not [url for url in asked if model_folder(folder) in url]
    who_takes_a_word(page)
    button.click()
    expect(page.get_by_role("button", name="Run")).to_be_enabled()
    assert [url for url in asked if url.endswith("model.safetensors")]


def who_takes_a_word(page):
    """It is said in the words of Python, and of a rare word that nothing can be said."""
    box, said = page.get_by_label("Who takes this word?"), page.locator("#search .said")
    names = said.text_content()
    for word in ("return", "la"):
        box.fill(word)
        box.press("Enter")
        found = tokens_of_word(reference_routing(), word)
        takers = who_takes(reference_routing(), found.tokens)
        expect(said).to_have_text(who_takes_sentence(found, takers, weighed=True))
    took = f"{takers['tokens'].iloc[0]} of {takers['of'].iloc[0]}"
    expect(page.locator("#atlas a.card").first).to_contain_text(took)
    for word, answer in (
        ("constructor", "“constructor” is not among the"),
        ("<b>x</b>", "“<b>x</b>” is not"),
        ("", names),
    ):
        box.fill(word)
        box.press("Enter")
        expect(said).to_contain_text(answer)


@pytest.mark.browser
def test_a_text_that_is_too_long_and_a_file_that_is_damaged_are_told(visitor, folder):
    page = visitor()
    page.get_by_label("Prompt").fill("a, b " * 200)
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#state")).to_contain_text("tokens; with 0 to come, and 256 can be drawn here. Shorten it.")
    page.get_by_label("Prompt").fill("x" * 1_000_000)
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#state")).to_contain_text("This text has 1,000,000 characters, more than 256 tokens can hold.")

    short = (folder / model_folder(folder) / "model.safetensors").read_bytes()[:100_000]
    page = visitor(before=lambda page: page.route("**/model.safetensors", lambda route: route.fulfill(body=short)))
    expect(page.locator("#state")).to_have_text("The model could not be loaded: its file is not whole.")
    page.unroute("**/model.safetensors")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("button", name="Run")).to_be_enabled()


def test_what_lies_under_one_address_never_changes(folder, tmp_path, monkeypatch):
    names = {place.name for place in folder.iterdir()}
    assert len(names) == 3
    monkeypatch.setattr(try_page, "PARTS", ("config.json",))
    try_page.write(tmp_path, site='https://lab.example/docs/"')
    alone, linked = ((place / "index.html").read_text("utf-8") for place in (folder, tmp_path))
    assert 'href="http' not in alone and '<a href="https://lab.example/docs/&quot;">' in linked
    assert {place.name for place in tmp_path.iterdir()} & names == {"index.html"}  # another model; the code names it


BUILD = re.compile(r"^// Built by: (clang) (.+)$", re.MULTILINE)


def test_the_kernels_are_what_their_source_compiles_to(tmp_path):
    source = DOCS / "try" / "kernels.c"
    kept = source.with_suffix(".wasm").read_bytes()
    compiler = next(filter(None, map(shutil.which, ("clang", "clang-14"))), None)
    if compiler is None:
        pytest.skip("There is no clang on this machine.")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"clang version ([\d.]+)", version)[1]
    if number.encode() not in kept:
        pytest.skip(f"kernels.wasm was built by another clang than {number}: its bytes would differ.")
    shutil.copy(source, tmp_path)
    options = BUILD.search(source.read_text())[2].split()
    built = subprocess.run([compiler, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    if "wasm-ld" in built.stderr and "No such file" in built.stderr:
        pytest.skip("This clang has no linker for WebAssembly.")
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "kernels.wasm").read_bytes() == kept
