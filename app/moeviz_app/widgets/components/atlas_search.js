// Who takes this word? What is typed is told after a pause; the answer is said here, and goes on to the atlas by an event,
// `moeviz:found`. An atlas that comes later asks for it with `moeviz:find`.

const SILENCE = 300; // ms without a key
const MOST = 100; // characters of a word

function boxIn(root) {
  const box = { input: root.querySelector("input"), said: root.querySelector(".said"), tries: root.querySelector(".tries"), told: null };
  beforeLeaving(() => box.input.isConnected, () => tell(box));
  box.input.oninput = () => {
    clearTimeout(box.timer);
    box.timer = setTimeout(() => isLeaving() || tellAlone(() => tell(box)), SILENCE);
    press(box);
  };
  box.input.onkeydown = (event) => {
    event.stopPropagation(); // Streamlit has hotkeys of its own
    if (event.key === "Escape") ask(box, "");
    if (event.key === "Enter" && !event.isComposing) tell(box);
  };
  return box;
}

// Whether there was something to tell.
function tell(box) {
  clearTimeout(box.timer);
  const word = box.input.value.trim().slice(0, 2 * MOST);
  if (word === box.told || !box.input.isConnected) return false;
  box.told = word;
  box.send("word", word.toWellFormed?.() ?? word);
  return true;
}

function ask(box, word) {
  box.input.value = word;
  tell(box);
  press(box);
}

function press(box) {
  for (const chip of box.tries.children) chip.setAttribute("aria-pressed", String(chip.textContent === box.input.value.trim()));
}

function drawTries(box, tries) {
  const drawn = tries.map((word) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: word });
    chip.onclick = () => ask(box, box.input.value.trim() === word ? "" : word);
    return chip;
  });
  box.tries.replaceChildren(...drawn);
}

function say(box, [first, rest]) {
  const strong = Object.assign(document.createElement("strong"), { textContent: first });
  box.said.replaceChildren(...(first ? [strong, " "] : []), rest);
}

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".search");
  const box = (root.box ??= boxIn(root));
  box.send = setStateValue;
  if (box.told === null || (data.word !== box.told && box.input.getRootNode().activeElement !== box.input)) {
    box.input.value = data.word; // as a link has it
    box.told = data.word;
  }
  const tries = JSON.stringify(data.tries);
  if (box.drawn !== tries) drawTries(box, data.tries);
  box.drawn = tries;
  press(box);
  say(box, data.said);
  const tellAtlas = () => window.dispatchEvent(new CustomEvent("moeviz:found", { detail: data.found }));
  if (box.asked) window.removeEventListener("moeviz:find", box.asked);
  window.addEventListener("moeviz:find", (box.asked = tellAtlas));
  tellAtlas();
  return () => window.removeEventListener("moeviz:find", tellAtlas);
}
