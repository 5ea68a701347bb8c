// The trace as the browser has it. Layers and tokens go by their places, from 0; `layers` holds the model's own indices.

const NOT_RECORDED = -2;
const MOST_IDS = 4; // of a token's experts under it, where it has no first choice

class Trace {
  constructor(data) {
    const { layers, counts, slots, texts } = data;
    Object.assign(this, { data, layers, counts, slots, T: texts.length, L: layers.length, most: Math.max(...counts) });
    this.experts = numbers(data.experts, Int16Array);
    this.weights = numbers(data.weights, Float32Array);
    this.scores = numbers(data.scores, Uint16Array);
    this.places = numbers(data.places, Uint8Array);
    this.positions = numbers(data.positions, Int32Array);
    this.newlines = numbers(data.newlines, Uint8Array);
    this.generated = numbers(data.generated, Uint8Array);
    this.parts = new Set(data.parts);
    this.templates = new Set(data.template ?? []); // tokens that a chat template added
    this.word = data.word;
    this.item = data.item; // what is routed: token, digit, utterance …
    this.Item = data.item[0].toUpperCase() + data.item.slice(1);
  }

  // The experts of a token, highest weight first; by id, where no order is known. Without weights where the trace has none.
  chosen(layer, token) {
    const from = (layer * this.T + token) * this.slots;
    const list = [];
    for (let at = from; at < from + this.slots; at++) {
      const expert = this.experts[at];
      if (expert >= 0) list.push({ expert, weight: this.weights ? this.weights[at] : null });
    }
    return this.data.ordered ? list : list.sort((a, b) => a.expert - b.expert);
  }

  isRecorded(layer, token) {
    return this.experts[(layer * this.T + token) * this.slots] !== NOT_RECORDED;
  }

  has(layer, token, expert) {
    const from = (layer * this.T + token) * this.slots;
    for (let at = from; at < from + this.slots; at++) if (this.experts[at] === expert) return true;
    return false;
  }

  score(layer, token, expert) {
    return this.scores ? this.scores[(layer * this.T + token) * this.most + expert] / 65535 : null;
  }

  // Which of a token's experts has the lowest score, which of all others has the highest, and how far that is below it;
  // infinitely where there is no other.
  edge(layer, token) {
    let [lowest, highest, last, next] = [Infinity, -Infinity, null, null];
    for (let expert = 0; expert < this.counts[layer]; expert++) {
      const score = this.score(layer, token, expert);
      if (this.has(layer, token, expert)) {
        if (score < lowest) [lowest, last] = [score, expert];
      } else if (score > highest) [highest, next] = [score, expert];
    }
    return { gap: lowest - highest, last, next };
  }

  // Whether every token has the experts with the highest scores. A bias on the choice, groups or a capacity decide too.
  goesByScores() {
    const layers = [...Array(this.L).keys()], tokens = [...Array(this.T).keys()];
    this.byScores ??= layers.every((layer) => tokens.every((token) => this.edge(layer, token).gap >= 0));
    return this.byScores;
  }

  colour(layer, expert) {
    return this.data.palette[this.places[layer * this.most + expert]];
  }

  isGrey(layer, expert) {
    return this.colour(layer, expert) === this.data.grey;
  }

  // Of a token where first choices are known; else it has several experts and none of their colours.
  colourOfToken(layer, token) {
    const first = this.experts[(layer * this.T + token) * this.slots];
    return this.data.ordered && first >= 0 ? this.colour(layer, first) : null;
  }

  // What stands under a token.
  mark(layer, token) {
    const ids = this.chosen(layer, token).map((choice) => choice.expert);
    if (!ids.length) return this.isRecorded(layer, token) ? "–" : "?";
    if (this.data.ordered) return String(ids[0]);
    return ids.slice(0, MOST_IDS).join(", ") + (ids.length > MOST_IDS ? " …" : "");
  }

  // Most routers' weights sum to 1 and read as shares; others are factors.
  weighed(list) {
    const sum = list.reduce((total, choice) => total + choice.weight, 0);
    const shares = Math.abs(sum - 1) < 0.02;
    return list.map(({ weight }) => (shares ? percent(weight) : `× ${weight.toFixed(2)}`));
  }

  choice(layer, token) {
    const list = this.chosen(layer, token);
    if (!list.length) return this.isRecorded(layer, token) ? "no expert" : "not recorded";
    if (list[0].weight === null) return `expert${list.length > 1 ? "s" : ""} ${list.map((one) => one.expert).join(", ")}`;
    const weighed = this.weighed(list);
    return list.map(({ expert }, at) => `expert ${expert} (${weighed[at]})`).join(" + ");
  }

  nameOfLayer(layer) {
    return `${this.word} ${this.layers[layer]}`;
  }

  sentence(layer, token) {
    const phase = this.generated[token] ? " · generated" : this.templates.has(token) ? " · of the chat template" : "";
    const choice = `${this.nameOfLayer(layer)} · ${this.choice(layer, token)}`;
    return `#${this.positions[token]} ${this.data.texts[token]} · ${choice}${phase}`;
  }
}
