// The prompt box. The text in it is the browser's: the server hears of it, and writes into it only what a link fills in.

const SILENCE = 400; // ms without a key after which the server is told
const SAME_PRESS = 500; // ms within which the same text is not run twice: a double click is one press
const AT_MOST = 0.4; // of the window's height, while one types
const EMPTY = "There is no text yet. Type some, or choose an example.";
const CHANGED = "changed: press Run";
const APART = 100; // ms between the end of a run and the next
const kept = new Map(); // what each box held, also while another page is open

const length = (text) => [...text].length; // characters, as the server counts them
const wellFormed = (text) => text.toWellFormed?.() ?? text; // half a surrogate pair is no text to a tokenizer
const touch = () => matchMedia("(pointer: coarse)").matches;
const announce = (name, detail) => window.dispatchEvent(new CustomEvent(name, { detail }));

function boxIn(root) {
  const part = (name) => root.querySelector(name);
  const box = {
    text: part("textarea"), run: part(".run"), changed: part(".changed"), refused: part(".refused"), chips: part(".chips"),
    keys: part(".keys"), chat: part(".chat"), turn: part(".turn"), system: part(".system"),
    data: null, last: null, fillings: null, told: null, pressed: null, running: false, timer: 0,
  };
  beforeLeaving(() => box.text.isConnected, () => tellNow(box));
  box.keys.textContent = touch() ? "Enter breaks the line, the button runs" : "Enter runs, Shift+Enter breaks the line";
  return box;
}

const isTooLong = (box) => length(box.text.value) > box.data.most;
const held = (box) => ({
  text: box.text.value,
  fillings: box.fillings,
  chat: box.data.chat && box.turn.checked,
  system: box.system.value,
});
const same = (one, other) => one !== null && other !== null && JSON.stringify(one) === JSON.stringify(other);

// Whether the text is another one than was run. What was just sent counts as run, until the server says what came of it.
function isStale(box) {
  if (box.pressed) return !same({ ...box.pressed.held, fillings: 0 }, { ...held(box), fillings: 0 });
  if (box.data.ran === null) return false;
  const { chat, system } = box.sent ?? held(box);
  return box.text.value !== box.data.ran || box.turn.checked !== chat || (chat && box.system.value !== system);
}

function show(box) {
  const stale = isStale(box);
  const stops = box.running && box.data.can_stop && !stale;
  box.changed.textContent = stale && !isTooLong(box) ? CHANGED : "";
  box.run.textContent = stops ? "Stop" : "Run";
  box.run.classList.toggle("stop", stops);
  box.run.disabled = isTooLong(box) && !stops;
  box.text.setAttribute("aria-invalid", String(isTooLong(box)));
  announce("moeviz:stale", stale);
}

function refuse(box, sentence) {
  if (box.refused.textContent !== sentence) box.refused.textContent = sentence;
}

function sayHowLong(box) {
  refuse(box, isTooLong(box) ? box.data.too_long.replace("{count}", length(box.text.value).toLocaleString("en")) : "");
}

// Over what is below, while one types; without the page moving. At rest one line.
function grow(box) {
  const style = box.text.style;
  style.height = "0";
  const wanted = box.text.scrollHeight + box.text.offsetHeight - box.text.clientHeight;
  const typing = box.text.getRootNode().activeElement === box.text;
  style.height = typing ? `max(100%, ${Math.min(wanted, AT_MOST * innerHeight)}px)` : "";
  if (!typing) box.text.scrollTop = 0;
  box.keys.style.top = `${box.text.offsetHeight + 3}px`;
  box.refused.style.top = `${box.text.offsetHeight - box.text.parentElement.clientHeight}px`; // stays under it
}

function tellLater(box) {
  clearTimeout(box.timer);
  box.timer = setTimeout(() => {
    if (isLeaving()) tellLater(box);
    else tellAlone(() => tellNow(box));
  }, SILENCE);
}

// A rerun would wait for the run that goes on; and a text that cannot be run need not travel.
const tellNow = (box) => box.text.isConnected && !box.running && !isTooLong(box) && tell(box);

// Whether there was something to tell.
function tell(box) {
  clearTimeout(box.timer);
  if (same(held(box), box.told)) return false;
  box.told = held(box);
  box.setStateValue("held", { ...box.told, text: wellFormed(box.told.text) });
  return true;
}

function changed(box) {
  kept.set(box.data.key, held(box));
  if (isTooLong(box) || box.refused.textContent) sayHowLong(box);
  grow(box);
  show(box);
  tellLater(box);
}

function run(box) {
  if (isTooLong(box)) return sayHowLong(box);
  if (!box.text.value.trim()) return refuse(box, EMPTY);
  const now = held(box);
  if (box.pressed && same(box.pressed.held, now) && performance.now() < box.pressed.at + SAME_PRESS) return;
  refuse(box, "");
  box.pressed = { held: now, at: performance.now(), runs: box.data.runs };
  box.sent = now;
  const send = () => {
    tell(box);
    box.setTriggerValue("run", { ...now, text: wellFormed(now.text), press: `${Date.now()} ${Math.random()}` });
  };
  if (box.running) announce("moeviz:stop");
  if (box.running) setTimeout(send, APART);
  else send();
  box.running = false;
  box.text.blur(); // it folds, and what keys do elsewhere on the page they do again
  show(box);
}

// As if it were typed, so that undo brings back what was there; on a touch screen without the keyboard coming up.
function fill(box, text) {
  const root = box.text.getRootNode();
  const before = root.activeElement;
  if (!touch()) {
    box.text.focus({ preventScroll: true });
    box.text.select();
    document.execCommand("insertText", false, text);
    before?.focus({ preventScroll: true });
  }
  if (box.text.value !== text) box.text.value = text;
  changed(box);
}

function drawChips(box) {
  const drawn = box.data.examples.map(([name, text]) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.textContent = name;
    chip.onclick = () => {
      fill(box, text);
      run(box);
    };
    return chip;
  });
  box.chips.replaceChildren(...drawn);
}

function onKey(box, event) {
  event.stopPropagation(); // Streamlit has hotkeys of its own
  if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return; // the last: Safari ends a composition so
  if (!(event.ctrlKey || event.metaKey) && (event.shiftKey || event.altKey || touch())) return;
  event.preventDefault();
  run(box);
}

function listen(box) {
  box.text.oninput = box.system.oninput = box.turn.onchange = () => changed(box);
  box.text.onfocus = () => grow(box);
  box.text.onblur = () => grow(box);
  box.text.onkeydown = (event) => onKey(box, event);
  box.system.onkeydown = (event) => event.stopPropagation();
  box.run.onclick = () => (box.run.classList.contains("stop") ? announce("moeviz:stop") : run(box));
}

// What the server wants in the box, or what was typed here since: that wins, also when this page comes back.
function hold(box) {
  const { key, text, fillings, turn, system } = box.data;
  if (box.fillings === fillings) return;
  const first = box.fillings === null;
  box.fillings = fillings;
  const before = kept.get(key);
  const mine = first && before?.fillings === fillings ? before : null;
  // An example or a plain link leaves the chat as it was set here.
  if (first || turn) [box.system.value, box.turn.checked] = [mine?.system ?? system, mine?.chat ?? turn];
  if (box.text.value !== (mine ?? { text }).text) box.text.value = (mine ?? { text }).text;
  kept.set(key, held(box));
  box.told = mine ? null : held(box);
  sayHowLong(box);
  if (mine) tellLater(box);
}

// What is known of the runs: the page that runs a text says what came of it after it has drawn the box.
function know(box, data, last = box.last) {
  const isNews = last && (last.runs > data.runs || (last.runs === data.runs && data.running));
  Object.assign(box, { last, data: isNews ? { ...data, ...last, running: false } : data });
  if (box.pressed && box.data.runs > box.pressed.runs && !box.data.running) box.pressed = null;
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".ask");
  const box = (root.box ??= boxIn(root));
  const examples = JSON.stringify(data.examples);
  Object.assign(box, { setStateValue, setTriggerValue });
  know(box, data);
  if (box.examples !== examples) drawChips(box);
  box.examples = examples;
  box.chat.hidden = !data.chat;
  hold(box);
  listen(box);
  show(box);

  const running = (event) => {
    box.running = event.detail;
    show(box);
    if (!box.running) tellLater(box);
  };
  const ran = (event) => {
    know(box, box.data, event.detail);
    show(box);
  };
  box.deafen?.();
  window.addEventListener("moeviz:running", running);
  window.addEventListener("moeviz:ran", ran);
  return (box.deafen = () => {
    window.removeEventListener("moeviz:running", running);
    window.removeEventListener("moeviz:ran", ran);
  });
}
