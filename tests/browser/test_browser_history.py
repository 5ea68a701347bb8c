"""The history gallery in a real Chromium: its story is read, a system is trained to its end, another is stopped.

Its experts that live or die train in the page; here that is held against torch.
"""

import re

import pytest
import torch
from accessible import grave
from browser import eventually, fits, go_to, is_below, stands
from browser_pages import DRAWN
from playwright.sync_api import Locator, Page, expect
from torch.testing import assert_close

from benchmarks.collapse import SCRIPT, Twin, found, in_page
from moeviz.history.phone_book.runs import TASKS, shipped_run
from moeviz.history.story import INPUTS, STEPS, Scene
from moeviz_app.widgets.components.history import NO_CURE, SIZES

pytestmark = pytest.mark.browser


def boxes(page: Page, marked: str = "") -> Locator:
    return page.locator(f".story .box{marked}")


def step(page: Page, name: str) -> Locator:
    return page.get_by_role("navigation", name="Steps of the story").get_by_role("button", name=name)


def shows(page: Page, title: str, total: int, computed: int, fresh: int) -> None:
    """The picture of a step has that many boxes, tinted and framed ones, and the step is marked on the rail."""
    expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    expect(boxes(page)).to_have_count(total)
    expect(boxes(page, ".on")).to_have_count(computed)
    expect(boxes(page, ".fresh")).to_have_count(fresh)
    expect(page.locator(".stop[aria-current=step]")).to_contain_text(title.rpartition(": ")[2][:12])


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    return {half.show.__name__: half.show() for step in STEPS for half in step.halves}


def met(scene: Scene, inputs: str) -> int:
    """Experts that the first input meets, in all layers that are drawn."""
    return int((scene.trace.experts[:, INPUTS[inputs]().first] >= 0).sum())


def first_word() -> str:
    """The word of 2017 that is shown first."""
    inputs = INPUTS["words"]()
    return str(inputs.drawn["words"][inputs.first])


def test_the_story_is_walked_by_its_rail_its_buttons_and_the_keys(visit, server, scenes):
    page = visit("/from-1991-to-mixtral")
    expect(page.locator(".book .wall").first).to_be_visible()
    eventually(page, lambda: sum(stands(page.locator(".opening .open"))[of] for of in ("y", "height")) < 760)
    shows(page, "One network", 1, 1, 0)
    page.get_by_role("button", name="1991: what was added").click()
    shows(page, "1991: Experts that compete", 4, 4, 4)
    expect(page.locator(".story .router.fresh")).to_have_count(1)
    step(page, "2017").click()
    shows(page, "2017: Sparse and noisy", 16, met(scenes["top_two"], "words"), 16)
    said = re.compile(f"“{first_word()}”: 2 of 16 are computed")
    expect(page.locator(".story").get_by_role("status")).to_have_text(said)
    page.get_by_role("radio", name="without them").click()
    shows(page, "2017: Sparse and noisy", 16, 2, 0)
    least = scenes["unbalanced_two"].quoted["least_without"]
    expect(page.locator(".story")).to_contain_text(f"One expert gets {least} of 1,024 words")
    page.keyboard.press("ArrowLeft")  # among the halves
    shows(page, "2017: Sparse and noisy", 16, 2, 16)
    step(page, "2017").focus()
    page.keyboard.press("ArrowRight")
    shows(page, "2020–21: Limited room: GShard, Switch", 8, 0, 0)
    expect(page.locator(".story .room.fresh")).to_have_count(8)
    expect(page.locator(".story").get_by_role("status")).to_have_text(re.compile("which is full: it is dropped"))
    page.get_by_role("slider", name="Words that have come").press("Home")
    expect(page.locator(".story").get_by_role("status")).to_have_text(re.compile("^Word 1 of 1,024, .* goes to expert"))
    expect(boxes(page, ".on")).to_have_count(1)
    step(page, "2023").click()
    shows(page, "2023: Mixtral", 48, met(scenes["every_layer"], "texts"), 24)
    step(page, "2024").click()
    shows(page, "2024: Many small experts: DeepSeek", 32, met(scenes["fine"], "texts") + 1, 24)
    expect(page.get_by_role("button", name="the last step")).to_be_disabled()
    page.get_by_role("button", name="1996, beside the way").click()
    expect(page.locator(".story dd").first).to_contain_text("without a router")
    page.get_by_role("button", name="More: HMM experts").click()
    expect(page.get_by_role("heading", name="HMM experts", exact=True)).to_be_visible()


def test_the_story_moves_unless_motion_is_reduced_and_keeps_the_keyboard_s_place(visit):
    page = visit("/from-1991-to-mixtral")
    moved = "box => getComputedStyle(box.querySelector('rect')).transitionDuration"
    expect(boxes(page)).to_have_count(1)
    assert boxes(page).first.evaluate(moved) == "0.7s"
    page.emulate_media(reduced_motion="reduce")
    assert boxes(page).first.evaluate(moved) in ("0s", "1ms", "0.001s")
    step(page, "2013–15").click()
    shows(page, "2013–15: Inside a deep network", 8, 8, 4)
    page.get_by_role("radio", name="digit 8").press("ArrowRight")
    expect(page.get_by_role("radio", name="digit 9")).to_be_focused()
    expect(page.locator(".story").get_by_role("status")).to_have_text(re.compile("^The digit 9"))
    page.keyboard.press("ArrowRight")  # there is no more digit, and no other step
    shows(page, "2013–15: Inside a deep network", 8, 8, 4)
    step(page, "2017").click()
    page.get_by_role("radio", name=first_word(), exact=True).focus()
    page.get_by_role("button", name="2020–21: what was added").press("Enter")
    shows(page, "2020–21: Limited room: GShard, Switch", 8, 0, 0)
    expect(page.locator(".story .room.fresh")).to_have_count(8)
    for at in range(2):
        page.keyboard.press("ArrowRight")
        expect(page.locator(".stop[aria-current=step]")).to_contain_text(("2023", "2024")[at])
    expect(step(page, "2024")).to_be_focused()
    assert not grave(page)


def test_twins_of_one_size_differ_in_what_their_experts_mean(visit):
    page = visit("/from-1991-to-mixtral", scheme="dark")
    expect(page.locator(".twins .head")).to_have_text([re.compile("46 of 48"), re.compile("15 of 48")])
    expect(page.locator(".twins .square:not(.none)")).to_have_count(61)
    page.get_by_role("radiogroup", name="Text", exact=True).last.get_by_role("radio", name="Python").click()
    expect(page.locator(".twins .strip").first).to_contain_text("__all__")
    page.get_by_role("radio", name=re.compile("^layer 2, expert 4: German")).press("ArrowDown")
    expect(page.get_by_role("heading", name=re.compile("^Layer 3, expert 4"))).to_have_count(2)
    assert not grave(page)


def test_on_a_phone_a_step_and_its_input_fit_on_a_screen_and_one_network_of_the_phone_book_is_seen_at_a_time(visit):
    phone = visit("/from-1991-to-mixtral", size="phone")
    expect(boxes(phone)).to_have_count(1)
    places = [phone.locator(f".story {part}") for part in (".place", ".panel svg")]
    eventually(phone, lambda: is_below(places[1], places[0]))
    top, bottom = map(stands, places)
    assert bottom["y"] + bottom["height"] - top["y"] < 844 - 60, "the menu's bar is below"
    networks = phone.locator(".book .arm")
    expect(networks.locator(".wall").last).to_be_visible()
    networks.first.get_by_role("button", name="Dense network", exact=True).click()
    expect(networks.locator(".wall").last).not_to_be_visible()
    eventually(phone, lambda: stands(phone.locator(".book"))["height"] < 1000)
    fits(phone)


def test_the_phone_book_is_read_with_keys_played_back_trained_and_stopped(visit, server):
    page = visit("/from-1991-to-mixtral")
    page.emulate_media(reduced_motion="reduce")
    book = page.locator(".book")
    shares, say = book.locator(".arm .big"), book.locator(".say")

    def ship(task: str, at: int = -1) -> list[str]:
        found = [shipped_run(f"{task}-{experts}").shares[at] for experts in (2, 8, 32)]
        return ["100%" if share == 1 else f"{100 * share:.1f}%" for share in found]

    expect(shares).to_have_text(ship("book"))
    wall = book.locator(".wall").first
    wall.focus()
    before = say.inner_text()
    wall.press("ArrowRight")
    expect(say).not_to_have_text(before)
    expect(book.locator(".wall .chosen")).to_have_count(3)  # it is the same name in all three
    book.get_by_role("slider").fill("1")
    expect(shares).to_have_text(ship("book", 1))
    expect(book.get_by_role("slider")).to_have_attribute("aria-valuetext", "step 100")
    press(page, "▸ Watch them learn")
    expect(shares).to_have_text(ship("book"))
    expect(book.get_by_role("button", name="▸ Watch them learn")).to_be_visible()
    press(page, "A rule instead")
    expect(shares).to_have_text(ship("rule"))
    expect(say).to_contain_text(f"From {TASKS['rule']:,} examples")
    press(page, "Controls")
    expect(book.get_by_text("drawn anew each visit").first).to_be_visible()
    expect(wall).not_to_be_visible()
    press(page, "A phone book")
    with server.holding():
        press(page, "Train now: Dense network")
        expect(book.locator(".own .sub")).to_have_text("step 0 of 3,000")
        press(page, "Stop training: Dense network")
        expect(book.locator(".own")).to_have_count(0)
    expect(shares).to_have_text(ship("book"))
    expect(page.get_by_text("Your network was stopped at step 0 of 3,000")).to_be_visible()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_a_system_is_trained_and_what_ships_comes_back(visit):
    page = visit("/local-experts")
    expect(page.get_by_text("This is the result that ships")).to_be_visible()
    expect(page.locator(DRAWN).first).to_be_visible()
    page.get_by_label("Seed").fill("3")
    page.get_by_label("Seed").press("Enter")
    press(page, "Train")
    expect(page.get_by_text(re.compile("This is the result that you trained: .*seed 3"))).to_be_visible()
    go_to(page, "Timeline")
    go_to(page, "Local experts")
    expect(page.get_by_text(re.compile("This is the result that you trained: .*seed 3"))).to_be_visible()
    press(page, "Back to the one that ships")
    expect(page.get_by_text("This is the result that ships")).to_be_visible()


def test_training_is_stopped_and_what_was_there_stays(visit, server):
    """While it goes on; the next one does not wait for it."""
    page = visit("/deep-mixture")
    expect(page.get_by_text("This is the result that ships")).to_be_visible()
    for _ in range(2):
        with server.holding():
            press(page, "Train")
            expect(page.get_by_role("progressbar")).to_be_visible()
            expect(page.get_by_text("ahead of yours")).to_have_count(0)
            press(page, "Stop")
            expect(page.get_by_role("progressbar")).to_have_count(0)
            expect(page.get_by_text("Your training has not come to its end")).to_be_visible()
            expect(page.get_by_text("This is the result that ships")).to_be_visible()
    expect(page.locator(DRAWN).first).to_be_visible()
    with server.holding():
        press(page, "Train")
        expect(page.get_by_role("progressbar")).to_be_visible()
        go_to(page, "Timeline")  # whoever leaves is told when he comes back
    go_to(page, "Deep mixture")
    expect(page.get_by_text("Your training has not come to its end")).to_be_visible()
    expect(page.get_by_text("This is the result that ships")).to_be_visible()


def test_without_javascript_a_sentence_says_what_is_missing(visit, server):
    context = visit("/deep-mixture").context.browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for place in ("/from-1991-to-mixtral", "/deep-mixture"):
        page.goto(f"{server.url}{place}")
        expect(page.locator("body")).to_contain_text("You need to enable JavaScript", use_inner_text=True)
    context.close()


TINY = {"experts": 4, "width": 8, "hidden": 12, "names": 6, "numbers": 4, "facts": 30, "batch": 16}
TINY |= {"steps": 8, "rate": 0.02, "warmUp": 3}
SMALL = SIZES | {"width": 16, "hidden": 16, "names": 64, "numbers": 16, "facts": 500, "batch": 128}
SMALL |= {"steps": 200, "rate": 0.02, "warmUp": 20}
ALL_CURES = {"balance": 0.3, "noise": 0.5, "capacity": 1.25, "bias": 0.1, "lean": 2}
# What the page's script does, step by step.
WATCHED = """([sizes, settings, seed]) => {
  const training = new Training(sizes, settings, seed);
  const plain = (arrays) => Object.fromEntries(Object.entries(arrays).map(([name, array]) => [name, [...array]]));
  const start = { ...plain(training.weights), lean: [...training.lean] };
  const steps = [];
  while (training.step < sizes.steps) {
    training.learn();
    const { loss, right, dropped, gradients } = training;
    const arrays = Object.fromEntries(
      ["facts", "noise", "chosen", "isKept", "load", "served", "bias"].map((name) => [name, [...training[name]]]),
    );
    steps.push({ loss, right, dropped, gradients: plain(gradients), ...arrays });
  }
  return { start, book: plain(training.book), steps, end: plain(training.weights), evaluated: training.evaluate() };
}"""


@pytest.fixture
def trainer(visit) -> Page:
    """A page that has the script of the training, and nothing else."""
    page = visit.blank().page
    page.add_script_tag(content=SCRIPT)
    return page


@pytest.mark.parametrize("settings", [ALL_CURES, NO_CURE], ids=["all cures", "no cure"])
def test_experts_are_trained_in_the_page_as_torch_trains_them(trainer, settings):
    """From the same numbers and batches: the choices, the losses, all gradients, and the weights at the end."""
    told = trainer.evaluate(WATCHED, [TINY, settings, 1])
    experts, width, hidden = TINY["experts"], TINY["width"], TINY["hidden"]
    shapes = {"up": (experts, width, hidden), "down": (experts, hidden, width), "router": (width, experts)}
    shapes |= {"output": (width, TINY["numbers"]), "lean": (width,), "noise": (TINY["batch"], experts)}

    def shaped(parts):
        return {
            name: torch.tensor(part, dtype=torch.float64).reshape(shapes.get(name, (-1, width)))
            for name, part in parts.items()
        }

    start = shaped(told["start"])
    lean = start.pop("lean")
    twin = Twin(TINY, settings, start, lean, {name: torch.tensor(part) for name, part in told["book"].items()})
    full = 0
    for step in told["steps"]:
        seen = twin.learn(torch.tensor(step["facts"]), shaped({"noise": step["noise"]})["noise"])
        assert seen.chosen.tolist() == step["chosen"] and seen.kept.int().tolist() == step["isKept"]
        assert step["loss"] == pytest.approx(seen.cross_entropy.item())
        assert step["right"] == seen.right.double().mean().item()
        assert step["dropped"] == pytest.approx(1 - seen.kept.double().mean().item())
        assert step["load"] == seen.load(experts).tolist() and sum(step["served"]) == pytest.approx(1 - step["dropped"])
        assert step["bias"] == pytest.approx(twin.bias.tolist())
        for name, gradient in shaped(step["gradients"]).items():
            assert_close(twin.weights[name].grad, gradient, rtol=1e-8, atol=1e-12)
        full += step["dropped"] > 0
    assert full == 0 if not settings["capacity"] else full > 3, "some batches have to be too much for an expert"
    for name, end in shaped(told["end"]).items():
        assert_close(twin.weights[name].detach(), end, rtol=1e-8, atol=1e-10)
    evaluated = told["evaluated"]
    load = evaluated["load"]
    assert twin.evaluate() == pytest.approx(found(load, load, evaluated["dropped"], evaluated["remembered"]))
    assert start["router"].T @ lean == pytest.approx(torch.zeros(experts), abs=1e-9), "the router does not see the lean"


def test_without_the_lean_no_expert_dies_and_more_is_remembered_than_with_any_cure(trainer):
    """As the panel says; of three seeds, at a smaller size. All begin alive."""

    def runs(**changed: float):
        return [in_page(trainer, NO_CURE | changed, seed, SMALL) for seed in range(3)]

    def dead(runs):
        return sum(run["dead"] for run in runs)

    cures = [runs(balance=0.1), runs(bias=0.1), runs(balance=0.1, capacity=1.25), runs(noise=1), runs(capacity=1.25)]
    spread, nothing, without = cures[:3], runs(), runs(lean=0)
    assert dead(nothing) > 12 and dead(without) == 0
    assert not any(run["never"] for run in [*nothing, *without])
    assert all(dead(cure) <= 1 for cure in spread) and all(dead(cure) > 8 for cure in cures[3:])
    for cure in [nothing, *cures]:
        assert max(run["remembered"] for run in cure) < min(run["remembered"] for run in without)
    assert all(max(run["busiest"] for run in cure) < min(run["busiest"] for run in nothing) for cure in spread)


def test_a_visitor_stops_and_trains_experts_by_keyboard_and_sees_who_lives(visit):
    page = visit("/from-1991-to-mixtral")
    panel = page.locator(".collapse")
    status, rows, train = panel.get_by_role("status"), panel.locator("tbody tr"), panel.locator(".train")
    expect(status).to_contain_text("Not trained yet")
    expect(panel.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"expert 7 [<>]?\d+%$"))

    # Training waits for a guess, and is stopped.
    expect(train).to_be_disabled()
    guess = panel.get_by_role("button", name="3 will die")
    guess.click()
    expect(guess).to_have_attribute("aria-pressed", "true")
    said = train.evaluate("""async (train) => {
      train.click();
      for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
      const said = train.textContent;
      train.click();
      return said;
    }""")
    assert said == "■ Stop"
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text(re.compile(r"nothing, stopped at step \d+3"))

    # Who leaves while it trains finds what there was in the table of runs.
    panel.get_by_role("button", name="No lean").click()
    panel.get_by_role("button", name="0 will die").click()
    train.click()
    expect(train).to_have_text("■ Stop")
    go_to(page, "Timeline")
    go_to(page, "From 1991 to Mixtral")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(re.compile(r"nothing; lean .*, stopped at step \d+0"))

    page.emulate_media(reduced_motion="reduce")
    noise = panel.get_by_label("Noise on the logits")
    noise.focus()
    page.keyboard.press("End")
    expect(noise).to_have_attribute("aria-valuetext", "3")
    expect(panel.get_by_role("button", name="Noise alone")).to_have_attribute("aria-pressed", "true")
    expect(train).to_be_disabled()
    panel.get_by_role("button", name="0 will die").click()
    panel.get_by_role("img").evaluate("""(plants) => {
      window.states = 0;
      new MutationObserver((changes) => (window.states += changes.length)).observe(plants, { attributes: true });
    }""")
    train.focus()
    page.keyboard.press("Enter")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("noise 3")
    expect(train).to_be_focused()
    assert 2 <= page.evaluate("window.states") <= 12, "two attributes, each 60 steps, where motion is reduced"
    expect(status).to_contain_text(
        re.compile(r"^You said 0: \d of 8 died.* of ten other starts: 7 dead", re.IGNORECASE)
    )
