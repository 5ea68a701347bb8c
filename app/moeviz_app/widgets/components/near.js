// The place of a part of the page that the server has not drawn yet: it asks for it once it is near the screen.

const NARROW = 640; // pixels: on a phone, words are below a picture
const AHEAD = { wide: "20%", narrow: "100%" }; // of the screen's height, above and below it
const LINE = 26, SIGN = 7.6, BESIDE = 70, GAP = 16; // pixels: a line of words, a sign, what is beside them, and below
const APART = 120; // ms between two places, and after a press: what is pressed is not to move
const AGAIN = 4000; // ms after which a place asks once more, where no script runs
const MOST_TO_PRINT = 20000; // ms that printing waits for
const PLACE = "st-key-place-of-"; // how the class of a place begins
const RESTS = "[data-test-script-state=notRunning]";

const places = new Set();
const closing = new Set(); // the names of places whose gap is still to go
let pressed = -Infinity;
let timer = null;
const waiting = () => [...places].filter((place) => place.root.isConnected); // Streamlit does not end each that goes
for (const name of ["pointerdown", "pointerup"]) window.addEventListener(name, () => (pressed = performance.now()), true);

// The next place that wants to be drawn, one after the other.
function askNext() {
  if (timer) return;
  timer = setTimeout(() => {
    timer = null;
    const waits = waiting().filter((place) => place.isNear && performance.now() > place.asked + AGAIN);
    if (!waits.length) return;
    const [next] = waits.filter((place) => place.asked === -Infinity || document.querySelector(RESTS));
    const isQuiet = !isLeaving() && performance.now() > pressed + APART;
    if (next && isQuiet) {
      next.asked = performance.now();
      next.tell();
      if (next.name) waitToClose(next.name);
    }
    askNext();
  }, APART);
}

function askAll() {
  for (const place of waiting()) place.isNear = true;
  askNext();
}

const moment = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

const isDrawn = () =>
  !waiting().length &&
  document.querySelector(RESTS) &&
  [...document.querySelectorAll(".stVegaLiteChart")].every((chart) => chart.querySelector("canvas, svg.marks"));

// All of the page first, once it has stood for a while.
async function printAll() {
  askAll();
  const end = performance.now() + MOST_TO_PRINT;
  for (let stood = 0; stood < 6 && performance.now() < end; stood = isDrawn() ? stood + 1 : 0) await moment(APART);
  window.moevizPrint();
}

if (!window.moevizPrint) {
  window.moevizPrint = window.print.bind(window);
  window.print = () => (waiting().length ? printAll() : window.moevizPrint());
  const isPrint = (event) => (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && event.key === "p";
  window.addEventListener("keydown", (event) => {
    if (!isPrint(event) || !waiting().length) return;
    event.preventDefault();
    printAll();
  });
  window.addEventListener("beforeprint", askAll);
}

// As a rule of the page and not of the element, which may be made anew while what comes is being drawn.
function keepSize(name, height, picture) {
  const id = `size-of-${name}`;
  const rule = document.getElementById(id) ?? document.head.appendChild(Object.assign(document.createElement("style"), { id }));
  // --picture is read in views/layout.py.
  rule.textContent = `.${CSS.escape(name)} { min-height: ${height}px; --picture: ${picture}px; }`;
}

// A picture may be lower than the place that was kept for it. The gap goes while its end is out of sight, so nothing jumps.
function closeGap(name) {
  closing.delete(name);
  const part = document.querySelector(`.${CSS.escape(name)}`);
  if (!part) return;
  const chart = part.querySelector(".stVegaLiteChart");
  const isToCome = !document.querySelector(RESTS) || waiting().some((place) => place.name === name);
  if (chart?.querySelector("canvas, svg.marks") && part.getBoundingClientRect().bottom > innerHeight) {
    keepSize(name, 0, 0);
    keepSize(name, part.offsetHeight, chart.offsetHeight);
  } else if (chart || isToCome || part.querySelector("[data-testid=stSkeleton]")) waitToClose(name);
}

function waitToClose(name) {
  if (!closing.has(name)) setTimeout(closeGap, APART, name);
  closing.add(name);
}

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".near");
  const isNarrow = innerWidth <= NARROW;
  const linesOf = (signs, beside) => Math.ceil((signs * SIGN) / Math.max(root.clientWidth - beside, 1));
  const above = data.said ? linesOf(data.said, 0) * LINE + GAP : 0;
  const below = isNarrow ? (1 + linesOf(data.words, BESIDE)) * LINE : 0;
  const height = above + data.height + below;
  root.style.height = `${height}px`;
  const host = root.getRootNode().host ?? root;
  const part = host.closest("[class*='st-key-place-of-']");
  const name = part && [...part.classList].find((one) => one.startsWith(PLACE));
  if (part) keepSize(name, height, data.height);
  const place = { root, name, isNear: false, asked: -Infinity, tell: () => tellAlone(() => setStateValue("near", Math.random())) };
  places.add(place);
  beforeLeaving(() => root.isConnected, () => false);
  const seen = new IntersectionObserver(
    (entries) => {
      place.isNear ||= entries.some((entry) => entry.isIntersecting);
      askNext();
    },
    { root: host.closest("[data-testid=stMain]"), rootMargin: `${isNarrow ? AHEAD.narrow : AHEAD.wide} 0px` },
  );
  seen.observe(root);
  return () => {
    seen.disconnect();
    places.delete(place);
  };
}
