// The atlas as the browser has it. Layers go by their places, from 0; `layers` holds the model's own indices.

const DRAWN = 3; // tokens of each expert, drawn at random
const KEPT = 2; // tokens of the vocabulary that keep to it
const OF_CLASS = 254; // a name that is no kind of text
const OF_NOTHING = 255;

// An array as it was packed: a loop, since half a million cells are read here.
function unpacked(base64, Kind) {
  if (!base64) return null;
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return new Kind(bytes.buffer);
}

class Atlas {
  constructor(data) {
    const { layers, counts, kinds, tokens } = data;
    Object.assign(this, { data, layers, counts, kinds, T: tokens, L: layers.length, C: kinds.length, E: Math.max(...counts, 1) });
    const Id = data.none === 255 ? Uint8Array : Uint16Array;
    this.first = unpacked(data.first, Id);
    for (const name of ["of", "kindCounts", "has", "text", "word_of", "text_of_code", "name"]) this[name] = unpacked(data[name], Uint16Array);
    for (const name of ["drawn", "keeps"]) this[name] = unpacked(data[name], Int16Array);
    for (const name of ["fits", "kindOfName"]) this[name] = unpacked(data[name], Uint8Array);
    this.few = this.E <= data.expertColours.length;
    this.total = counts.reduce((sum, count) => sum + count, 0);
    this.assigned = layers.map((_, layer) => this.has.subarray(layer * this.E, (layer + 1) * this.E).reduce((a, b) => a + b, 0));
  }

  at(layer, expert) {
    return layer * this.E + expert;
  }

  nameOf(layer, expert, short = false) {
    return this.data.names[this.name[this.at(layer, expert)]][short ? 1 : 0];
  }

  // Whether the token by itself predicts more than the name.
  isBeaten(layer, expert) {
    return this.data.names[this.name[this.at(layer, expert)]][2];
  }

  // A name, or why there is none.
  called(layer, expert, short = false) {
    return this.nameOf(layer, expert, short) || (this.data.named ? "no kind of text" : "");
  }

  // By its id where ids have colours, else by the kind of text that it is named for.
  colour(layer, expert) {
    return this.few ? this.data.expertColours[expert] : this.kindColour(layer, expert);
  }

  kindColour(layer, expert) {
    const kind = this.kindOfName[this.at(layer, expert)];
    return { [OF_NOTHING]: this.data.grey, [OF_CLASS]: this.data.classColour }[kind] ?? this.data.kindColours[kind];
  }

  // -1 for none.
  firstOf(layer, token) {
    const expert = this.first[layer * this.T + token];
    return expert === this.data.none ? -1 : expert;
  }

  // Of a kind's tokens, the share that an expert has.
  share(layer, expert, kind) {
    return this.kindCounts[this.at(layer, expert) * this.C + kind] / Math.max(this.of[layer * this.C + kind], 1);
  }

  uniform(layer) {
    return this.assigned[layer] / Math.max(this.data.recorded[layer], 1) / this.counts[layer];
  }

  load(layer, expert) {
    return (this.has[this.at(layer, expert)] / Math.max(this.assigned[layer], 1)) * this.counts[layer];
  }

  // How strongly an expert is drawn that no colour tells from others: by its load.
  strength(layer, expert) {
    return Math.min(1, 0.08 + 0.25 * this.load(layer, expert));
  }

  drawnOf(layer, expert) {
    const from = this.at(layer, expert) * DRAWN;
    return [...this.drawn.subarray(from, from + DRAWN)].filter((row) => row >= 0).sort((a, b) => a - b);
  }

  // [word, times that the expert has it, times that it occurs]
  keepsOf(layer, expert) {
    const found = [];
    for (let nth = 0; nth < KEPT; nth++) {
      const from = (this.at(layer, expert) * KEPT + nth) * 3;
      const [code, has, times] = this.keeps.subarray(from, from + 3);
      if (code >= 0) found.push([this.data.words[this.text_of_code[code]], has, times]);
    }
    return found;
  }

  wordOf(token) {
    return this.data.words[this.word_of[token]];
  }

  // What stands before and after a token in its text, so many characters.
  around(token, most) {
    const plain = (row) => this.data.plain[this.word_of[row]];
    let [before, after] = ["", ""];
    for (let row = token - 1; row >= 0 && this.text[row] === this.text[token] && before.length < most; row--) before = plain(row) + before;
    for (let row = token + 1; row < this.T && this.text[row] === this.text[token] && after.length < most; row++) after += plain(row);
    return [[...before].slice(-most).join(""), [...after].slice(0, most).join("")];
  }

  columnOf(token) {
    return this.data.columns.find((column) => token < column.end);
  }

  nameOfLayer(layer) {
    return `${this.data.word} ${this.layers[layer]}`;
  }

  sentence(layer, expert) {
    const called = this.called(layer, expert);
    return `${this.nameOfLayer(layer)} · expert ${expert}${called ? ` · ${called}` : ""}`;
  }
}
