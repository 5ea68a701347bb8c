"""The explorer in a real Chromium, on made-up traces: what is clicked in one of its parts is seen in all of them."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from accessible import grave
from browser import click_at, eventually, fits, in_colours, settled, stands
from browser_pages import VIEW
from explorer_traces import HOSTILE, STAND_IN, made, without
from playwright.sync_api import Page, expect
from servers import served

from moeviz.metrics.expert_names import UNNAMED
from moeviz.metrics.tokens import visible

pytestmark = pytest.mark.browser
NO_EXPORTS = {"content_type": "text/javascript", "body": "export {};"}


@pytest.fixture(scope="module")
def explorer_server():
    with served("tests/support/explorer_page.py") as running:
        yield running


@pytest.fixture
def opened(explorer_server, visit):
    """A visitor's page."""

    def open_page(query="", size="desktop", drawn=True, **options) -> Page:
        def ready(page: Page) -> None:
            expect(tokens(page).first).to_be_visible()
            if drawn:
                expect(page.locator(".map[data-drawn] canvas")).to_be_visible()

        return visit(f"/?{query}", at=explorer_server, size=size, ready=ready, **options)

    return open_page


def without_vega(page: Page) -> None:
    page.route("**/loadVegaEmbed.*.js", lambda route: route.fulfill(**NO_EXPORTS))


def tokens(page: Page):
    return page.get_by_role("listbox", name=re.compile("^Tokens")).get_by_role("option")


def chosen(page: Page):
    return page.get_by_role("option", selected=True)


def told(page: Page):
    """What the server was told."""
    return page.get_by_test_id("stText").first


def signals(page: Page, **wanted) -> None:
    """Wait until the map's signals are so."""
    eventually(page, lambda: {name: signal(page, name) for name in wanted}, wanted)


def signal(page: Page, name: str):
    return page.evaluate(f"(name) => {VIEW}.map.view.signal(name)", name)


def layer(page: Page):
    return page.locator(".steps [aria-pressed=true]")


def test_a_click_in_the_strip_is_seen_in_map_and_card_and_told_to_the_server(opened):
    page, trace = opened(), made("whole")
    tokens(page).nth(9).click()
    first, second = trace.experts[1, 9]
    expect(chosen(page)).to_have_attribute("aria-label", re.compile(f"^⏎ · layer 1 · expert {first} "))
    signals(page, token=9, layer=1)
    words = page.locator(".words")
    expect(words).to_have_text(re.compile(f"^Layer 1's router picks experts {first} and {second} of 8"))
    expect(page.locator(".which")).to_have_text("token 10 of 52")
    expect(told(page)).to_have_text("At (1, 9)")


def test_a_click_in_the_map_chooses_token_and_layer(opened):
    page = opened()
    canvas = page.locator(".map canvas")
    click_at(canvas, 0.5, 130 / stands(canvas)["height"])
    expect(layer(page)).to_have_text("4")
    signals(page, layer=4)
    token = eventually(page, lambda: signal(page, "token"), lambda token: 20 < token < 32)
    expect(chosen(page)).to_have_attribute("data-token", str(token))
    expect(chosen(page)).to_have_attribute("aria-label", re.compile(" layer 4 "))
    expect(told(page)).to_have_text(f"At (4, {token})")


def test_strip_and_map_are_walked_with_the_keys(opened):
    page = opened()
    tokens(page).nth(2).focus()
    page.keyboard.press("ArrowRight")
    expect(tokens(page).nth(3)).to_be_focused()
    expect(tokens(page).nth(3)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowDown")  # a line further
    expect(tokens(page).nth(3)).not_to_be_focused()
    page.keyboard.press("End")
    expect(tokens(page).last).to_be_focused()
    page.keyboard.press("Home")
    expect(tokens(page).first).to_be_focused()
    page.locator(".map").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    signals(page, token=1, layer=2)
    expect(page.locator(".map")).to_have_attribute("aria-label", re.compile("Chosen: ␣router · layer 2"))
    expect(page.locator(".map")).to_be_focused()
    expect(told(page)).to_have_text("At (2, 1)")


def test_layers_are_stepped_through_and_played(opened):
    page = opened("layers=3", own=True)  # whose clock stands still
    page.get_by_role("button", name="layer 2", exact=True).click()
    expect(layer(page)).to_have_text("2")
    page.clock.install(time=0)
    page.clock.pause_at(60)  # else it goes on by itself
    page.get_by_role("button", name="Play").click()
    expect(layer(page)).to_have_text("0")
    page.clock.run_for(300)
    expect(page.locator(".flying")).to_be_visible()  # on its way to the card
    page.clock.run_for(700)
    expect(page.locator(".flying")).to_be_hidden()
    expect(page.locator(".dot")).to_have_count(2)
    page.clock.run_for(1150)
    expect(layer(page)).to_have_text("1")
    page.clock.run_for(1150)
    expect(layer(page)).to_have_text("2")
    page.clock.run_for(1150)
    expect(page.locator(".play")).to_have_text("▶ Play")
    expect(page.locator(".dot")).to_have_count(0)
    page.get_by_role("button", name="Play").click()
    page.clock.run_for(2000)
    page.get_by_role("button", name="layer 0", exact=True).click()  # whoever clicks stops it
    expect(page.locator(".play")).to_have_text("▶ Play")
    page.clock.run_for(3000)
    expect(layer(page)).to_have_text("0")


def test_where_motion_is_reduced_play_is_stepped(opened):
    page = opened("layers=3", own=True)
    page.emulate_media(reduced_motion="reduce")
    page.clock.install(time=0)
    page.clock.pause_at(60)
    page.get_by_role("button", name="Play").click()
    for step in ("0", "1", "2"):
        expect(layer(page)).to_have_text(step)
        expect(page.locator(".dot, .flying:visible")).to_have_count(0)
        page.clock.run_for(950)
    expect(page.locator(".play")).to_have_text("▶ Play")


def test_many_layers_have_a_way_to_the_next_and_the_one_before(opened):
    page = opened("layers=40&tokens=20")
    expect(page.locator(".where")).to_have_text("1 (2 of 40)")
    page.get_by_role("button", name="next layer").click()
    expect(page.locator(".where")).to_have_text("2 (3 of 40)")
    page.get_by_role("button", name="layer before").click()
    expect(page.locator(".where")).to_have_text("1 (2 of 40)")


def test_an_expert_that_is_pointed_at_or_focused_dims_what_it_does_not_have(opened):
    page, trace = opened(), made("whole")
    without = int((trace.experts[1] != 5).all(axis=-1).sum())
    cold = page.locator(".token.cold")
    expect(cold).to_have_count(0)
    chip = page.locator(".chip", has_text="5")
    chip.hover()
    expect(cold).to_have_count(without)
    signals(page, hot=[1, 5])
    page.mouse.move(5, 5)
    expect(cold).to_have_count(0)
    signals(page, hot=[-1, -1])
    chip.focus()
    expect(cold).to_have_count(without)
    tokens(page).first.focus()
    expect(cold).to_have_count(0)


def test_a_finding_shows_its_place_and_stays_text(opened):
    page = opened()
    finding, markup = STAND_IN
    page.get_by_role("button", name=finding.sentence).click()
    expect(layer(page)).to_have_text("2")
    signals(page, token=7, hot=[2, 3])
    page.get_by_role("button", name=markup.sentence).click()
    expect(layer(page)).to_have_text("3")
    signals(page, hot=[-1, -1])
    expect(told(page)).to_have_text("At (3, 4)")


def test_the_second_choice_is_shown_in_the_map_or_not(opened):
    page = opened()
    split = page.get_by_role("checkbox", name=re.compile("^2nd choice too"))
    expect(split).to_be_checked()
    split.uncheck()
    signals(page, split=0)
    page = opened("top_k=4")
    expect(page.get_by_role("checkbox", name=re.compile("^choices 2–4 too"))).not_to_be_checked()
    signals(page, split=0)


def test_an_expert_is_a_link_that_a_plain_click_follows_within_the_app(opened):
    page = opened()
    more = page.locator("a.named").first
    query = parse_qs(urlsplit(more.get_attribute("href")).query)
    expert = str(made("whole").experts[0, 2, 0])
    assert query == {"layer": ["0"], "expert": [expert], "of": ["sample"]}
    before = page.url
    more.click()
    expect(page.get_by_text(f"Opened (0, {expert})")).to_be_visible()
    expect(page).to_have_url(before)
    page.get_by_role("button", name="Run again").click()
    expect(page.get_by_text("Opened")).to_be_hidden()  # for one run
    with page.context.expect_page() as tab:
        more.click(modifiers=["ControlOrMeta"])
    expect(tab.value).to_have_url(re.compile(r"//[^/]+/expert\?"))
    expect(page.get_by_text("Opened")).to_be_hidden()


def test_a_rerun_keeps_the_view_and_what_has_the_keyboard(opened):
    page = opened()
    canvas = page.locator(".map canvas").element_handle()
    tokens(page).nth(4).click()
    expect(told(page)).to_have_text("At (1, 4)")
    settled(page)
    expect(tokens(page).nth(4)).to_be_focused()
    page.get_by_role("button", name="Run again").click()
    settled(page)
    expect(chosen(page)).to_have_attribute("data-token", "4")
    assert canvas.evaluate("canvas => canvas.isConnected")  # for good, once the page is at rest


def test_a_server_that_repeats_what_it_was_told_does_not_turn_the_view_back(opened):
    page = opened("keep=1")
    for token in (4, 9, 14):
        tokens(page).nth(token).click()
        expect(told(page)).to_have_text(f"At (1, {token})")
    tokens(page).nth(20).click()
    page.wait_for_function(f"() => {VIEW}.told.includes('[1,20]')")  # the answer comes when the next is chosen already
    tokens(page).nth(21).click()
    expect(told(page)).to_have_text("At (1, 21)")
    settled(page)
    expect(chosen(page)).to_have_attribute("data-token", "21")
    page.get_by_role("button", name="Run again").click()
    settled(page)
    expect(chosen(page)).to_have_attribute("data-token", "21")
    page.get_by_role("button", name="Go elsewhere").click()
    expect(chosen(page)).to_have_attribute("data-token", "1")
    page.get_by_role("button", name="Run again").click()
    settled(page)
    expect(chosen(page)).to_have_attribute("data-token", "1")
    tokens(page).nth(21).click()  # where it was before
    expect(told(page)).to_have_text("At (5, 21)")
    settled(page)
    expect(chosen(page)).to_have_attribute("data-token", "21")


def test_another_place_that_the_server_names_is_followed_and_another_trace_is_drawn(opened):
    page = opened()
    tokens(page).nth(4).click()
    expect(told(page)).to_have_text("At (1, 4)")
    page.get_by_role("button", name="Go elsewhere").click()
    expect(layer(page)).to_have_text("5")
    expect(chosen(page)).to_have_attribute("data-token", "1")
    page.get_by_role("button", name="Another trace").click()
    expect(tokens(page)).to_have_count(12)
    expect(told(page)).to_have_text("At None")
    expect(page.locator(".map canvas")).to_have_count(1)
    tokens(page).last.click()
    expect(told(page)).to_have_text("At (0, 11)")


def test_what_strangers_wrote_stays_text_and_is_isolated(opened):
    page = opened("trace=hostile")
    expect(tokens(page).nth(0)).to_have_text(re.compile(re.escape(HOSTILE[0])))
    for token in range(5):
        tokens(page).nth(token).click()
        expect(page.locator(".pill")).to_be_visible()
    expect(page.locator("img, script[src*=example]")).to_have_count(0)
    expect(page.locator(".token bdi").nth(3)).to_have_css("unicode-bidi", "isolate")
    left = [stands(tokens(page).nth(token))["x"] for token in (2, 3, 4)]
    assert left == sorted(left)  # Hebrew does not turn the order round


def test_without_streamlit_s_vega_a_sentence_stands_in_the_map_s_place(opened):
    page = opened(before=without_vega, drawn=False)
    expect(page.get_by_text("The map cannot be drawn")).to_be_visible()
    tokens(page).nth(9).click()
    expect(page.locator(".which")).to_have_text(re.compile("^token 10 "))
    expect(told(page)).to_have_text("At (1, 9)")
    assert not grave(page)


def test_the_card_names_experts_and_says_which_tokens_are_likely_next(opened):
    page, trace = opened("trace=next&names=1"), made("next")
    texts = [visible(text) for text in trace.tokens["text"]]
    tokens(page).nth(9).click()
    bars = page.locator(".bar-row")
    assert bars.locator(".text").all_text_contents() == [texts[10], "und", "</b>", "x", "y"]
    p = trace.next_tokens.p[9, 0]
    expect(bars.first.locator(".p")).to_have_text(f"{100 * p:.0f}%")
    assert stands(bars.first.locator("i"))["width"] == pytest.approx(
        p * stands(bars.first.locator(".groove"))["width"], abs=1
    )
    expect(page.locator(".told")).to_have_text(f"The text goes on with “{texts[10]}” (bold).")
    guesses = page.locator("svg .mono")
    expect(guesses).to_have_count(5)  # after the last layer it is no guess
    tokens(page).first.click()
    expect(page.locator(".told")).to_have_text(
        re.compile("^The text goes on with “.*”, which is not among these five.$")
    )
    tokens(page).last.click()
    expect(page.locator(".told")).to_have_text("Here the text ends.")
    chips = page.locator(".chip")
    assert chips.locator(".called").all_text_contents()[:2] == ["German", UNNAMED]
    expect(chips.nth(7)).to_have_text("70")  # of no token: its name is in its label
    expect(chips.nth(7)).to_have_attribute("aria-label", re.compile("German, <b>SQL</b>, French, Python"))
    expect(page.locator(".named title").filter(has_text="German").first).to_be_attached()


def test_a_press_on_an_expert_mutes_it_and_shows_what_changes(opened):
    page, plain = opened("trace=next&mute=1"), made("next")
    tokens(page).nth(9).click()
    first, second = plain.experts[1, 9]
    glass = page.get_by_role("button", name=re.compile(f"^Expert {first} of layer 1[.,]"))
    glass.click()
    expect(glass).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text(f"Muted ((1, {first}),)")).to_be_visible()
    changed = without(plain, [(1, int(first))])
    moved = int((changed.experts[..., 0] != plain.experts[..., 0]).sum())
    expect(page.locator(".token.moved")).to_have_count(moved)
    expect(page.locator(".told")).to_contain_text(f" {moved} of {6 * 52} first choices change (orange dots).")
    eventually(page, lambda: len(page.evaluate(f"() => {VIEW}.map.view.data('moved')")), moved)
    was, now = plain.next_tokens.after(9)[0], dict(changed.next_tokens.after(9))
    said = f"“{visible(was[0])}”: {100 * was[1]:.0f}% → {100 * now[was[0]]:.0f}%. Now “und” is likeliest."
    expect(page.locator(".told")).to_contain_text(said)
    expect(page.locator(".findings")).to_be_hidden()  # they are of the run as it was
    expect(page.locator("svg .mono")).to_have_count(0)  # no lens of a model that it was not taken of
    page.get_by_role("button", name=re.compile(f"^Expert {second} of layer 1[.,]")).press("Enter")
    expect(page.get_by_text(re.compile(r"Muted \(\(1, \d\), \(1, \d\)\)"))).to_be_visible()
    page.get_by_role("button", name="Run again").click()
    settled(page)
    expect(page.locator(".glass[aria-pressed=true]")).to_have_count(2)
    page.get_by_role("button", name="Bring the muted experts back").click()
    expect(page.locator(".token.moved, .glass[aria-pressed=true]")).to_have_count(0)
    expect(page.get_by_text("Muted")).to_be_hidden()
    expect(page.locator(".findings")).to_be_visible()
    expect(page.locator("svg .mono")).to_have_count(5)


def test_an_older_answer_does_not_undo_the_latest_press(opened):
    page, plain = opened("trace=next&mute=1"), made("next")
    one, other = (page.locator(f".glass[aria-label^='Expert {e} of layer 1']") for e in plain.experts[1, 2])
    one.click()
    one.click()
    other.click()
    expect(page.get_by_text(f"Muted ((1, {plain.experts[1, 2, 1]}),)")).to_be_visible()
    settled(page)
    expect(page.locator(".glass[aria-pressed=true]")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(".glass[aria-pressed=true]")).to_have_count(0)


def test_many_layers_are_lines_with_a_lens_on_the_chosen_one(opened):
    page = opened("layers=48&experts=128&top_k=8&tokens=40&mute=1")
    expect(page.locator("svg .line")).to_have_count(47)
    expect(page.locator(".glass")).to_have_count(8)
    page.locator("svg .line").nth(30).click()
    expect(page.locator(".where")).to_have_text("31 (32 of 48)")
    card = stands(page.locator(".path"))
    assert card["height"] <= 480
    page.locator(".glass").first.press("Enter")
    expect(page.get_by_text("Muted ((31,")).to_be_visible()


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("ids&top_k=1", "Its weight is not recorded."),
        ("ids", "Their weights are not recorded."),
        ("unordered", "Which of them has the most weight is not recorded."),
        ("missing", "Where layer 1 sent this token is not recorded."),
        ("dropped", "Layer 1 gave this token no expert: it was dropped."),
        ("whole&top_k=8", "Layer 1 uses all its 8 experts."),
        ("uneven", "Layer 5's router picks experts"),
        ("whole", "the next best, was"),
        ("biased", "it would have picked the same; but this router does not go by scores alone."),
    ],
)
def test_the_card_says_what_is_known_and_no_more(opened, kind, sentence):
    page = opened(f"trace={kind}")
    expect(page.locator(".words")).to_contain_text(sentence)


def test_a_slot_that_was_lost_is_said(opened):
    page = opened("trace=dropped")
    tokens(page).nth(6).click()
    expect(page.locator(".words")).to_contain_text("1 of its 2 slots is empty.")


def test_tokens_without_first_choices_have_ids_and_no_colour(opened):
    page, trace = opened("trace=unordered"), made("unordered")
    ids = ", ".join(map(str, sorted(trace.experts[1, 0])))
    expect(tokens(page).first).to_have_text(f"The{ids}")
    expect(tokens(page).first).to_have_attribute("style", "")
    page = opened("trace=missing")
    expect(tokens(page).nth(3)).to_have_text("␣each?")
    expect(tokens(page).nth(3)).to_have_class(re.compile("missing"))


def test_a_long_trace_is_brushed_and_the_brush_follows_the_choice(opened):
    page = opened("layers=4&tokens=4096")
    expect(tokens(page)).to_have_count(256)
    box = stands(page.locator(".map canvas"))
    page.mouse.move(box["x"] + 300, box["y"] + 120)
    page.mouse.down()
    page.mouse.move(box["x"] + 315, box["y"] + 120, steps=4)
    page.mouse.up()
    expect(tokens(page).first).not_to_have_attribute("data-token", "0")
    settled(page)
    eventually(page, lambda: tokens(page).count(), lambda found: 0 < found < 256)
    start = int(tokens(page).first.get_attribute("data-token"))
    signals(page, **{"from": start - 0.5, "token": start})
    tokens(page).first.focus()
    page.keyboard.press("End")
    expect(chosen(page)).to_have_attribute("data-token", "4095")
    signals(page, to=4095.5)
    expect(told(page)).to_have_text("At (1, 4095)")


def test_tokens_past_the_strip_s_window_are_turned_to(opened):
    page = opened("layers=2&tokens=600")
    expect(page.get_by_text("Tokens 1 to 256 of 600")).to_be_visible()
    page.get_by_role("button", name="Tokens after these").click()
    expect(page.get_by_text("Tokens 257 to 512 of 600")).to_be_visible()
    signals(page, token=256)


def test_the_keys_lead_over_the_edges_of_the_strip_s_window_and_stop_at_those_of_the_text(opened):
    page = opened("layers=2&tokens=600")
    tokens(page).nth(255).click()
    for key, token in (
        ("ArrowRight", 256),
        ("ArrowLeft", 255),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("End", 599),
        ("ArrowRight", 599),
        ("ArrowDown", 599),
    ):
        page.keyboard.press(key)
        expect(chosen(page)).to_have_attribute("data-token", str(token))
        expect(chosen(page)).to_be_focused()
    page.get_by_role("button", name="Tokens before these").click()
    expect(chosen(page)).to_have_attribute("data-token", "88")
    tokens(page).last.click()
    page.keyboard.press("ArrowDown")
    eventually(page, lambda: int(chosen(page).get_attribute("data-token")), lambda token: token > 343)


def test_a_stale_answer_says_so(opened):
    page = opened("stale=1")
    expect(page.get_by_role("status").filter(has_text="What you ask for has changed.")).to_be_visible()


def test_tokens_of_a_run_that_goes_on_are_only_to_look_at(opened):
    page = opened("live=1&tokens=300", drawn=False)
    expect(tokens(page)).to_have_count(256)
    expect(tokens(page).last).to_be_in_viewport()
    expect(page.locator(".card, .map")).to_have_count(0)
    tokens(page).last.click()
    expect(chosen(page)).to_have_attribute("data-token", "255")


@pytest.mark.parametrize("query", ["", "layers=96&experts=512&top_k=8", "trace=hostile"])
def test_on_a_phone_the_card_is_under_the_strip_and_nothing_is_wider_than_the_screen(opened, query):
    page = opened(query, "phone")
    parts = (".strip", ".card", ".experts", ".map")
    eventually(page, lambda: [stands(page.locator(part))["y"] for part in parts], lambda tops: tops == sorted(tops))
    fits(page)
    assert stands(page.locator(".strip"))["height"] <= 300


@pytest.mark.parametrize("query", ["", "trace=unordered", "experts=64&top_k=8&layers=20", "stale=1"])
def test_it_has_no_grave_fault(opened, query):
    page = opened(query)
    for scheme in ("light", "dark"):
        in_colours(page, scheme)
        assert not grave(page, colours_alone=scheme == "dark"), scheme


def test_the_map_s_facts_are_in_the_strip_and_in_the_path_for_who_cannot_see_it(opened):
    page, trace = opened(), made("whole")
    option = page.get_by_role("option").nth(2)
    expect(option).to_have_accessible_name(re.compile(f"^␣sends · layer 1 · expert {trace.experts[1, 2, 0]} "))
    page.get_by_role("button", name="layer 4", exact=True).click()
    expect(option).to_have_accessible_name(re.compile(f"^␣sends · layer 4 · expert {trace.experts[4, 2, 0]} "))
    for layer, expert in enumerate(trace.experts[:, 2, 0]):
        expect(page.locator(f".lit-glass[aria-label^='Expert {expert} of layer {layer}']")).to_have_count(1)


def test_of_a_run_of_one_expert_only_the_first_token_shows_its_number(opened):
    page, trace = opened(), made("whole")
    first, phase = trace.experts[1, :, 0], trace.tokens["phase"].to_numpy()
    begins = (first[1:] != first[:-1]) | (phase[1:] != phase[:-1])  # also where a word says what follows
    shown = [number.is_visible() for number in page.locator(".strip .token sub").all()]
    assert shown == [True, *begins.tolist()] and not all(shown)
