// The token strip. Token text comes from strangers: it is only ever put into text nodes and attributes, never parsed.

const WHAT = { changed: " · another first choice than in the other text", new: " · not in the other text" };

function sentence(token) {
  const weight = token.weight ? ` · weight ${token.weight}` : "";
  return `${token.text} · ${token.choice}${weight} · ${token.phase}${WHAT[token.what] ?? ""}`;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function drawToken(token, isSelected, before) {
  const drawn = element("span", ["token", token.phase, token.part ? "part" : "", token.missing ? "missing" : "", token.what ?? ""].join(" ").trim(), token.text);
  drawn.append(element("sub", "", token.expert));
  drawn.classList.toggle("again", token.expert === before?.expert && !token.mark && (token.what ?? "same") === "same");
  drawn.setAttribute("role", "option");
  drawn.setAttribute("aria-selected", String(isSelected));
  drawn.setAttribute("aria-label", sentence(token));
  if (token.colour && token.what === "same") {
    drawn.style.background = `color-mix(in srgb, ${token.colour} 28%, transparent)`;
  } else if (token.colour) {
    drawn.style.background = token.colour;
    drawn.style.color = inkOn(token.colour);
  }
  return drawn;
}

// Nothing is given back for Streamlit to call at the end: where two reruns follow each other fast, it calls what the
// first of them gave after the second has drawn, and the strip would be deaf.
export default function ({ data, parentElement, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip");
  const said = parentElement.querySelector(".said");
  const { tokens, start, selected, name, live } = data;
  const root = strip.getRootNode();
  // A rerun must neither take the keyboard away nor move it back from where somebody has walked to meanwhile.
  const focused = [...strip.querySelectorAll(".token")].indexOf(root.activeElement);
  const walkedTo = strip.start === start && focused < tokens.length ? focused : -1;
  strip.start = start;
  const say = (i) => (said.textContent = i === null ? "" : sentence(tokens[i]));

  strip.setAttribute("aria-label", name);
  const drawn = tokens.map((token, i) => drawToken(token, i === selected, tokens[i - 1]));
  const pieces = document.createDocumentFragment();
  tokens.forEach((token, i) => {
    if (token.mark) pieces.append(element("span", "mark", token.mark));
    pieces.append(drawn[i]);
    for (let line = 0; line < token.newlines; line++) pieces.append(document.createElement("br"));
  });
  strip.replaceChildren(pieces);

  let current = walkedTo >= 0 ? walkedTo : (selected ?? 0);
  const focus = (i) => {
    drawn[current].tabIndex = -1;
    current = i;
    drawn[current].tabIndex = 0;
    drawn[current].focus();
    say(current);
  };
  const pick = (i) => {
    drawn.forEach((token, other) => token.setAttribute("aria-selected", String(other === i)));
    say(i);
    setTriggerValue("pick", start + i);
  };

  drawn.forEach((token) => (token.tabIndex = -1));
  drawn[current].tabIndex = 0;
  say(walkedTo >= 0 ? walkedTo : selected);
  if (focused >= 0) drawn[current].focus({ preventScroll: true });

  if (live) {
    said.textContent = "";
    strip.scrollTop = strip.scrollHeight;
    return;
  }

  const under = (event) => drawn.indexOf(event.target.closest(".token"));
  strip.onclick = (event) => {
    const i = under(event);
    if (i >= 0) {
      focus(i);
      pick(i);
    }
  };
  strip.onpointerover = (event) => {
    if (under(event) >= 0) say(under(event));
  };
  strip.onpointerleave = () => say(selected);
  const last = drawn.length - 1;
  const moves = {
    ArrowRight: () => Math.min(current + 1, last),
    ArrowLeft: () => Math.max(current - 1, 0),
    ArrowDown: () => verticalNeighbour(drawn, current, 1),
    ArrowUp: () => verticalNeighbour(drawn, current, -1),
    Home: () => 0,
    End: () => last,
  };
  strip.onkeydown = (event) => {
    if (event.key in moves) focus(moves[event.key]());
    else if (event.key === "Enter" || event.key === " ") pick(current);
    else return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has hotkeys of its own
  };
}
