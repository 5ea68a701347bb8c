// What all parts of the explorer are made of: elements, colours, words for numbers.
// Token text comes from strangers: it is only ever put into text nodes and attributes, never parsed.

const SVG = "http://www.w3.org/2000/svg";

function filled(made, text, attributes) {
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function make(tag, className = "", text = null, attributes = {}) {
  return filled(Object.assign(document.createElement(tag), { className }), text, attributes);
}

function holding(made, ...children) {
  made.append(...children);
  return made;
}

function shape(parent, tag, attributes, text = null) {
  return parent.appendChild(filled(document.createElementNS(SVG, tag), text, attributes));
}

// `name` is what a screen reader says, where the text is a sign.
function button(className, text, name, onclick) {
  const names = name === null ? {} : { "aria-label": name, title: name };
  return Object.assign(make("button", className, text, { type: "button", ...names }), { onclick });
}

// Arrays come in base64; what was not recorded comes as null.
function numbers(base64, Kind) {
  return base64 && new Kind(Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer);
}

// Never all or nothing of what is only nearly so; single precision cannot always say 1.
function percent(share) {
  if (share >= 0.995 && share < 1 - 1e-6) return ">99%";
  return share > 0 && share < 0.005 ? "<1%" : `${Math.round(100 * share)}%`;
}

function cut(text, most) {
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : text;
}

function capitalised(words) {
  return words[0].toUpperCase() + words.slice(1);
}

function listed(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

function painted(colour) {
  return `background:${colour};color:${inkOn(colour)}`;
}

function clamped(value, most) {
  return Math.max(0, Math.min(value, most));
}
