// The page: a prompt, the model in a worker, and moeviz's own explorer and atlas, which take it for Streamlit.
import drawExplorer from "./explorer.js";
import drawAtlas from "./atlas.js";
import drawSearch from "./search.js";
import { Packer } from "./packed.js";

const DEAR = ["slow-2g", "2g", "3g"]; // connections on which megabytes are not taken unasked
const LINK = "#expert";
const part = (id) => document.getElementById(id);
const here = (name) => new URL(name, import.meta.url);
const json = async (name) => (await fetch(here(`../../${name}`))).json();
const { connection } = navigator;
const isDear = Boolean(connection && (connection.saveData || connection.type === "cellular" || DEAR.includes(connection.effectiveType)));
let worker = null, isReady = false, number = 0, shown = null, ran = null;

const [made, example] = await Promise.all([json("made.json"), json("example.json")]);
const packer = new Packer(made);
const MB = `${(made.bytes / 1e6).toFixed(0)} MB`;

// What Streamlit's v2 components bring: a shadow root with the component's HTML and CSS.
function mounted(id, html, css) {
  const root = part(id).attachShadow({ mode: "open" });
  root.innerHTML = html;
  root.append(Object.assign(document.createElement("style"), { textContent: css }));
  return root;
}

const explorer = mounted("explorer", made.explorer.html, made.explorer.css);

function draw(news = {}) {
  Object.assign(shown.data, { canMute: isReady, canDecide: isReady && shown.ids.length <= made.mostDecided }, news);
  drawExplorer({ data: shown.data, parentElement: explorer, setStateValue: heard, setTriggerValue: heard });
  tellStale();
}

function show(ids, data) {
  shown = { ids, data: { ...made.around, ...data } };
  draw();
}

const ANSWERS = {
  at() {},
  mutes({ mutes, asked }) {
    if (!mutes.length) return draw({ answered: asked, mutes, muted: null });
    shown.asked = asked;
    worker.postMessage({ mute: mutes, ids: shown.ids, number });
  },
  open: ({ expert }) => open(...expert),
  decide: () => worker.postMessage({ decide: made.decide, ids: shown.ids, number }),
};
const heard = (name, value) => ANSWERS[name](value);

function say(sentence, isRefused = false) {
  part("state").textContent = sentence;
  part("state").className = isRefused ? "refused" : "";
}

// ---- the model ----

const TOLD = {
  progress: (share) => say(`Loading the model: ${Math.round(100 * share)}% of ${MB}. Meanwhile, the text below is recorded.`),
  ready({ how }) {
    isReady = true;
    part("run").disabled = part("text").disabled = false;
    say(`The model is here, in ${how}. Type a text, or click an expert to mute it.`);
    draw();
  },
  failed: (why) => (say(why, true), offer("Try again")),
  run(trace) {
    show(trace.ids, { ...packer.packed(trace, number), at: [made.model.layers[trace.L >> 1], trace.prompt - 1] });
    say(`${trace.ids.length} tokens in ${Math.round(performance.now() - ran.at)} ms.${trace.ended ? " Here the model ended the text." : ""}`);
  },
  mute: (trace) => draw({ answered: shown.asked, mutes: trace.mutes, muted: { ...packer.routing(trace), mutes: trace.mutes } }),
  deciding: ({ done, of }) => say(`The text is read with other words in it: ${done} of ${of} times.`),
  decide: (found) => (say(""), draw({ decided: found })),
  refused: (why) => say(why, true),
};

function load() {
  part("load").hidden = true;
  worker?.terminate();
  worker = new Worker(here("worker.js"), { type: "module" });
  worker.onmessage = ({ data }) => {
    if (data.number !== undefined && data.number !== number) return; // of a text before
    const [name] = Object.keys(data);
    TOLD[name](data[name]);
  };
  worker.onerror = ({ message }) => TOLD.failed(`The model did not start: ${message}`);
  worker.postMessage({ open: { folder: here(`../../../${made.folder}/`).href, plain: new URLSearchParams(location.search).has("plain") } });
}

function offer(words) {
  Object.assign(part("load"), { textContent: `${words} (${MB})`, hidden: false, onclick: load });
}

// ---- the tour ----

const steps = [...document.querySelectorAll("#tour li")];

function walkTo(at) {
  steps.forEach((step, number) => step.classList.toggle("at", number === at));
  steps[at].parentElement.start = at + 1;
  part("step").textContent = `${at + 1} of ${steps.length}`;
  part("back").disabled = at === 0;
  part("next").disabled = at === steps.length - 1;
  part("back").onclick = () => walkTo(at - 1);
  part("next").onclick = () => walkTo(at + 1);
}

// ---- the prompt ----

function fit() { // the whole text is seen; browsers that know `field-sizing` do it themselves
  part("text").style.height = "auto";
  part("text").style.height = `${part("text").scrollHeight + 2}px`;
}

const now = () => JSON.stringify(["text", "more", "temperature", "seed"].map((id) => part(id).value));

function tellStale() {
  part("of-seed").hidden = part("seed").disabled = part("temperature").value === "0"; // unseen, it must not refuse to be sent
  window.dispatchEvent(new CustomEvent("moeviz:stale", { detail: now() !== ran.what }));
}

function run(event) {
  event.preventDefault();
  const [text, more, temperature, seed] = ["text", "more", "temperature", "seed"].map((id) => part(id).value);
  if (!isReady) return;
  if (!text) return say("There is no text. Type one.", true);
  ran = { what: now(), at: performance.now() };
  worker.postMessage({ run: text, more: Number(more), temperature: Number(temperature), seed: Number(seed), most: made.most, number: ++number });
}

part("ask").onsubmit = run;
part("ask").oninput = () => (fit(), tellStale());
part("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), part("ask").requestSubmit());
};

// ---- experts ----

let atlas = null, words = null;

// Who takes a word: answered when the page was made, for every word that is frequent enough to tell.
async function look(word) {
  if (word) words ??= await json("words.json");
  const rare = ["", `“${word}” is not among the ${Object.keys(words ?? {}).length} words and signs that are frequent enough here to tell who takes them.`];
  const [said, found] = !word ? [made.search.otherwise, null] : Object.hasOwn(words, word) ? words[word] : [rare, null];
  drawSearch({ data: { word, said, found, tries: made.search.tries }, parentElement: search, setStateValue: (_, typed) => look(typed) });
}

function open(layer, expert) {
  const { slots, layers, texts } = shown.data, T = texts.length;
  const ids = new Int16Array(Uint8Array.from(atob(shown.data.experts), (letter) => letter.charCodeAt(0)).buffer);
  const from = layers.indexOf(layer) * T;
  const mine = texts.filter((_, token) => ids.subarray((from + token) * slots, (from + token + 1) * slots).includes(expert));
  const card = [...(atlas?.querySelectorAll("a.card") ?? [])].find((one) => one.hash === `${LINK}?layer=${layer}&expert=${expert}`);
  const [where, called, ...facts] = (card?.getAttribute("aria-label") ?? `layer ${layer} · expert ${expert}`).split(/ · (?!expert)/);
  part("who").textContent = where;
  const words = document.createElement("p");
  words.append(mine.length ? `In the text above it took ${mine.length} of ${T} tokens: ` : `In the text above it took none of ${T} tokens.`);
  for (const text of mine) words.append(Object.assign(document.createElement("bdi"), { textContent: text }), " ");
  const said = facts.length ? [called, `Over the held-out texts it ${facts.join(" · ")}.`] : [];
  const lines = said.map((line) => Object.assign(document.createElement("p"), { textContent: line }));
  part("told").replaceChildren(...lines, words);
  part("expert").showModal();
}

function openAddress() {
  const [, layer, expert] = /^#expert\?layer=(\d+)&expert=(\d+)$/.exec(location.hash) ?? [];
  const count = made.model.counts[made.model.layers.indexOf(Number(layer))];
  if (Number(expert) < count) open(Number(layer), Number(expert));
}

part("tour").classList.add("walked");
document.querySelector("#tour .walk").hidden = false;
walkTo(0);
part("text").value = example.prompt;
fit();
ran = { what: now() };
show(example.ids, example.data);
await explorer.querySelector(".explorer").view.map.ready; // the picture first: the model would take its share of the line
if (isDear) offer("Load the model");
else load();
const data = await json("atlas.json");
const search = mounted("search", made.search.html, made.search.css);
look("");
atlas = mounted("atlas", made.atlas.html, made.atlas.css);
drawAtlas({ data, parentElement: atlas, setTriggerValue: heard });
openAddress();
window.onhashchange = openAddress;
