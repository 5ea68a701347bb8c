// The place of a part of the page that the server has not drawn yet: it asks for it once it is near the screen.

const NARROW = 640; // pixels: on a phone, words are below a picture
const AHEAD = { wide: "20%", narrow: "100%" }; // of the screen's height, above and below it
const LINE = 26, SIGN = 7.6, BESIDE = 70; // pixels of a line of words, of a sign, and of what stands beside them
const APART = 120; // ms between two places, and after a press: what changes within one moment reaches one fragment alone
const AGAIN = 4000; // ms after which a place asks once more, where no script runs
const MOST_TO_PRINT = 20000; // ms that printing waits for
const RESTS = "[data-test-script-state=notRunning]";

const places = new Set();
let pressed = -Infinity;
let timer = null;
for (const name of ["pointerdown", "pointerup"]) window.addEventListener(name, () => (pressed = performance.now()), true);

// The next place that wants to be drawn, one after the other.
function askNext() {
  if (timer) return;
  timer = setTimeout(() => {
    timer = null;
    const waits = [...places].filter((place) => place.isNear && performance.now() > place.asked + AGAIN);
    if (!waits.length) return;
    const [next] = waits.filter((place) => place.asked === -Infinity || document.querySelector(RESTS));
    const isQuiet = !isLeaving() && performance.now() > pressed + APART;
    if (next && isQuiet) {
      next.asked = performance.now();
      next.tell();
    }
    askNext();
  }, APART);
}

function askAll() {
  for (const place of places) place.isNear = true;
  askNext();
}

const moment = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// All of the page first.
async function printAll() {
  askAll();
  const end = performance.now() + MOST_TO_PRINT;
  while (places.size && performance.now() < end) await moment(APART);
  await moment(8 * APART); // the last one is being drawn
  window.moevizPrint();
}

if (!window.moevizPrint) {
  window.moevizPrint = window.print.bind(window);
  window.print = () => (places.size ? printAll() : window.moevizPrint());
  const isPrint = (event) => (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && event.key === "p";
  window.addEventListener("keydown", (event) => {
    if (!isPrint(event) || !places.size) return;
    event.preventDefault();
    printAll();
  });
  window.addEventListener("beforeprint", askAll);
}

export default function ({ data, parentElement, setStateValue }) {
  const root = parentElement.querySelector(".near");
  const isNarrow = innerWidth <= NARROW;
  const lines = isNarrow ? 1 + Math.ceil((data.words * SIGN) / (root.clientWidth - BESIDE)) : 0;
  const height = data.height + lines * LINE;
  root.style.height = `${height}px`;
  const host = root.getRootNode().host ?? root;
  const part = host.closest("[class*='st-key-place-of-']");
  if (part) {
    part.style.minHeight = `${height}px`; // also while what comes is being drawn
    part.style.setProperty("--picture", `${data.height}px`); // read in views/layout.py
  }
  const place = { isNear: false, asked: -Infinity, tell: () => setStateValue("near", Math.random()) };
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
