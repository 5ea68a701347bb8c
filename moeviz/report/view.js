// The page of view.py: the strip of tokens, the map of token by layer, and a line that says what is chosen. All three
// show one choice, `at`. Texts of tokens come from strangers: they only ever become text nodes, never markup.

const FEW_LAYERS = 12; // up to which each has its button
const STEPS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1], Home: [-Infinity, 0], End: [Infinity, 0] };

const data = JSON.parse(await given("data"));
const [T, L] = [data.tokens.length, data.layers.length];
const at = { token: 0, layer: Math.floor(L / 2) };
const bar = make("div", "bar");
const strip = make("div", "strip", "", { role: "listbox", "aria-label": "Tokens", "aria-orientation": "horizontal" });
const said = make("p", "said", "", { "aria-live": "polite" });
const map = make("div", "map", "", { tabindex: 0, role: "application", "aria-label": "Map of tokens by layers: arrow keys move" });
const tip = make("div", "tip", "", { hidden: "", "aria-hidden": "true" });
const pieces = data.tokens.map(piece);
let view = null;

start();

async function start() {
  strip.append(...data.tokens.flatMap((token, i) => around(token, pieces[i])));
  const main = document.querySelector("main");
  main.replaceChildren(bar, strip, said, map);
  document.body.append(tip);
  show();
  strip.onclick = (event) => pieces.includes(event.target.closest(".token")) && choose(under(event));
  map.onclick = (event) => choose(cell(event));
  strip.onkeydown = map.onkeydown = onKey;
  strip.onpointermove = (event) => hover(event, under(event));
  map.onpointermove = (event) => hover(event, cell(event));
  strip.onpointerleave = map.onpointerleave = () => (tip.hidden = true);
  await drawMap();
  main.removeAttribute("aria-busy");
}

// ---- what is in the page, or beside it ----
async function given(id) {
  const part = document.getElementById(id);
  if (part.content) return (await fetch(part.content)).text(); // a file beside the page
  const bytes = Uint8Array.from(atob(part.textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

function make(tag, className, text = "", attributes = {}) {
  const made = Object.assign(document.createElement(tag), { className, textContent: text });
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function piece(token) {
  const made = make("span", `token ${token.phase}${token.part ? " part" : ""}`, token.text, { role: "option", tabindex: -1 });
  made.append(make("sub", ""));
  return made;
}

function around(token, made) {
  const breaks = Array.from({ length: token.breaks }, () => document.createElement("br"));
  return token.mark ? [make("span", "mark", token.mark, { role: "presentation" }), made, ...breaks] : [made, ...breaks];
}

// ---- what a router chose ----
function choices(token, layer) {
  const weights = data.weights && data.weights[layer][token];
  const all = data.experts[layer][token].map((expert, slot) => ({ expert, weight: weights && weights[slot] }));
  return all.filter(({ expert }) => expert >= 0);
}

function missing(token, layer) { // -2: the source does not say; -1: no expert
  return data.experts[layer][token][0] === -2;
}

function paint(element, colour) {
  element.style.background = colour ?? "";
  element.style.color = colour ? ink(colour) : "";
  return element;
}

function ink(colour) { // the one with the higher contrast (WCAG 2.2)
  const [r, g, b] = [1, 3, 5].map((from) => parseInt(colour.slice(from, from + 2), 16) / 255);
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) > 0.179 ? "#000" : "#fff";
}

function sentence({ token, layer }) { // as nodes
  const { position, text, phase } = data.tokens[token];
  const nodes = [`#${position} `, make("bdi", "word", text), ` · ${data.word} ${data.layers[layer]} · `];
  const chosen = choices(token, layer);
  chosen.forEach(({ expert, weight }, slot) => {
    nodes.push(paint(make("span", "chip", `expert ${expert}`), data.colours[layer][expert]));
    nodes.push(weight === null ? " " : ` ${slot ? "" : "weight "}${weight.toFixed(3)} `);
  });
  return [...nodes, chosen.length ? "" : missing(token, layer) ? "not recorded " : "no expert ", phase === "generated" ? "· generated" : ""];
}

// ---- choosing ----
function choose({ token = at.token, layer = at.layer }) {
  Object.assign(at, { token: clamp(token, T), layer: clamp(layer, L) });
  show();
}

function clamp(place, count) {
  return Math.max(0, Math.min(place, count - 1));
}

function onKey(event) {
  const step = STEPS[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  tip.hidden = true; // it is about what lies under the pointer
  choose({ token: at.token + step[0], layer: at.layer + step[1] });
  if (event.currentTarget === strip) pieces[at.token].focus({ preventScroll: true });
}

function under(event) {
  return { token: pieces.indexOf(event.target.closest(".token")), layer: at.layer };
}

function cell(event) { // the place under the pointer, on the chart's own scales
  if (!view) return at;
  const box = map.querySelector("canvas").getBoundingClientRect(), pad = view.padding();
  const token = Math.round(view.scale("x").invert(event.clientX - box.left - pad.left));
  const layer = Math.floor(view.scale("y").invert(event.clientY - box.top - pad.top));
  return { token: token < 0 ? at.token : clamp(token, T), layer: layer < L ? clamp(layer, L) : at.layer };
}

function hover(event, place) {
  tip.hidden = place.token < 0 || event.pointerType === "touch";
  if (tip.hidden) return;
  tip.replaceChildren(...sentence(place));
  const { width, height } = tip.getBoundingClientRect();
  const above = event.clientY - height - 14;
  tip.style.left = `${clamp(event.clientX - width / 2, innerWidth - width)}px`;
  tip.style.top = `${above < 0 ? event.clientY + 18 : above}px`;
}

// ---- showing ----
function show() {
  const { token, layer } = at;
  if (bar.layer !== layer) showLayer(layer);
  pieces.forEach((made, i) => {
    made.setAttribute("aria-selected", String(i === token));
    made.tabIndex = i === token ? 0 : -1;
  });
  keepInSight(pieces[token]);
  said.replaceChildren(...sentence(at));
  said.tabIndex = said.scrollHeight > said.clientHeight ? 0 : -1; // what scrolls has to be reached by the keyboard
  view?.signal("token", token).signal("layer", layer).runAsync();
}

function showLayer(layer) {
  bar.layer = layer;
  bar.replaceChildren(steps(layer), legend(layer));
  pieces.forEach((made, i) => {
    const [first] = choices(i, layer);
    paint(made, first && data.colours[layer][first.expert]).lastChild.textContent = first ? first.expert : missing(i, layer) ? "?" : "–";
    made.classList.toggle("missing", missing(i, layer));
  });
}

function steps(layer) {
  const group = make("div", "steps", "", { role: "group", "aria-label": data.word });
  group.append(make("span", "name", data.word));
  const few = data.layers.map((name, i) => step(name, `${data.word} ${name}`, i, i === layer));
  const many = [step("‹", `${data.word} before`, layer - 1), make("b", "", `${data.layers[layer]}`), step("›", `next ${data.word}`, layer + 1)];
  group.append(...(L <= FEW_LAYERS ? few : many));
  return group;
}

function step(text, name, layer, pressed = false) {
  const made = make("button", "step", text, { type: "button", "aria-label": name, "aria-pressed": String(pressed) });
  made.onclick = () => {
    choose({ layer });
    [...bar.querySelectorAll("button")].find((button) => button.ariaLabel === name)?.focus(); // it has been made anew
  };
  return made;
}

function legend(layer) {
  const many = data.colours[layer].includes(data.other);
  const shown = many ? data.focus[layer] : data.colours[layer].map((_, expert) => expert);
  const group = make("div", "legend");
  group.append(make("span", "name", "experts"), ...shown.map((expert) => paint(make("span", "chip", expert), data.colours[layer][expert])));
  if (many) group.append(paint(make("span", "chip", "others"), data.other));
  return group;
}

function keepInSight(made) { // within the strip: the page around must not move
  const [inner, outer] = [made.getBoundingClientRect(), strip.getBoundingClientRect()];
  if (inner.top < outer.top) strip.scrollTop -= outer.top - inner.top + 4;
  else if (inner.bottom > outer.bottom) strip.scrollTop += inner.bottom - outer.bottom + 4;
}

async function drawMap() {
  if (!globalThis.vegaEmbed) document.head.append(make("script", "", await given("vega")));
  const looks = { background: "transparent", font: getComputedStyle(map).fontFamily };
  const how = { mode: "vega-lite", renderer: "canvas", actions: false, tooltip: false, defaultStyle: false, ast: true, config: looks };
  ({ view } = await vegaEmbed(map, { ...data.chart, width: inside(data.chart.padding) }, how));
  new ResizeObserver(() => view.width(inside(view.padding())).runAsync()).observe(map);
  matchMedia("(prefers-color-scheme: dark)").onchange = colours;
  await colours();
  show();
}

function inside({ left, right }) {
  return Math.max(60, map.clientWidth - left - right);
}

function colours() { // the chart asks for them, since it stands on the page's own paper
  const { color, backgroundColor } = getComputedStyle(document.body);
  return view.signal("ink", color).signal("paper", backgroundColor).runAsync();
}
