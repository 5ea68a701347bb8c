// The trace as the browser has it. Layers and tokens go by their places, from 0; `layers` holds the model's own indices.

const NOT_RECORDED = -2;
const HANDFUL = 8; // tokens: of fewer, no sentence
const MOST_IDS = 4; // of a token's experts under it, where it has no first choice

class Trace {
  constructor(data) {
    const { layers, counts, slots, texts } = data;
    Object.assign(this, { data, layers, counts, slots, T: texts.length, L: layers.length, most: Math.max(...counts) });
    this.plain = this.now = new Routing(data);
    this.mutes = []; // layer (by its place) and expert
    this.names = data.names ?? null;
    this.places = numbers(data.places, Uint8Array);
    this.positions = numbers(data.positions, Int32Array);
    this.newlines = numbers(data.newlines, Uint8Array);
    this.generated = numbers(data.generated, Uint8Array);
    this.parts = new Set(data.parts);
    this.foldeds = new Set(data.folded); // image tokens for which the first of their run stands
    this.templates = new Set(data.template ?? []); // tokens that a chat template added
    this.word = data.word;
    this.item = data.item; // what is routed: token, digit, utterance …
    this.Item = data.item[0].toUpperCase() + data.item.slice(1);
  }

  get experts() {
    return this.now.experts;
  }

  get weights() {
    return this.now.weights;
  }

  get scores() {
    return this.now.scores;
  }

  get next() {
    return this.now.next;
  }

  // Show the routing of a run without some experts; of the run itself, where there are none.
  mute(muted) {
    this.now = muted ? new Routing(muted) : this.plain;
    this.mutes = muted ? muted.mutes.map(([layer, expert]) => [this.layers.indexOf(layer), expert]) : [];
    this.byScores = null;
  }

  isMuted(layer, expert) {
    return this.mutes.some((mute) => mute[0] === layer && mute[1] === expert);
  }

  first(layer, token, routing = this.now) {
    return routing.experts[(layer * this.T + token) * this.slots];
  }

  // Whether the first choice is another one than without the mutes.
  hasMoved(layer, token) {
    return this.now !== this.plain && this.data.ordered && this.first(layer, token) !== this.first(layer, token, this.plain);
  }

  movedCount() {
    let moved = 0;
    for (let layer = 0; layer < this.L; layer++) for (let token = 0; token < this.T; token++) moved += this.hasMoved(layer, token);
    return moved;
  }

  // Null where no name holds for the expert, or none is known.
  nameOf(layer, expert) {
    return this.names?.[layer]?.[expert] ?? null;
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

  has(layer, token, expert, routing = this.now) {
    const from = (layer * this.T + token) * this.slots;
    for (let at = from; at < from + this.slots; at++) if (routing.experts[at] === expert) return true;
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
    if (this.data.ordered) return ids[0] < this.counts[layer] - this.data.zero ? String(ids[0]) : `${ids[0]}∅`; // computes nothing
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

  // The first choices at a layer, of these tokens, as the strip shows them: how many each expert has. In any slot, where
  // no order is known.
  counted(layer, [from, to]) {
    const had = Array(this.counts[layer]).fill(0);
    let recorded = 0;
    for (let token = from; token < to; token++) {
      recorded += this.isRecorded(layer, token);
      for (const { expert } of this.shown(layer, token)) had[expert]++;
    }
    return { had, recorded };
  }

  shown(layer, token) {
    const list = this.chosen(layer, token);
    return this.data.ordered ? list.slice(0, 1) : list;
  }

  // The longest run of tokens of one text that show an expert: its first and its last, and how long it is.
  longestRun(layer, expert, [from, to]) {
    let [best, length] = [{ length: 0 }, 0];
    for (let token = from; token < to; token++) {
      const follows = token > from && this.isNextTo(token);
      const has = this.shown(layer, token).some((choice) => choice.expert === expert);
      length = has ? (follows ? length : 0) + 1 : 0;
      if (length > best.length) best = { length, first: token - length + 1, last: token };
    }
    return best;
  }

  // Whether a token comes directly after the row before it.
  isNextTo(token) {
    const { sequences } = this.data;
    return this.positions[token] === this.positions[token - 1] + 1 && (!sequences || sequences[token] === sequences[token - 1]);
  }

  // What can be counted in the strip: the expert that most tokens show there.
  layerSentence(layer, window) {
    const { had, recorded } = this.counted(layer, window);
    if (recorded < HANDFUL) return null;
    const most = Math.max(...had);
    const best = had.flatMap((n, expert) => (n === most ? [expert] : []));
    if (best.length > 1) return null;
    const run = this.longestRun(layer, best[0], window);
    const of = recorded < window[1] - window[0] ? `${recorded} recorded` : window[1] - window[0] < this.T ? `${recorded} shown` : recorded;
    const has = this.data.ordered ? "has" : "is among those of";
    const said = `expert ${best[0]} ${has} ${most} of the ${of} ${this.item}s`;
    const quoted = (token) => `“${this.data.texts[token]}”`;
    const inARow = run.length > 2 ? `, ${run.length} of them in a row, from ${quoted(run.first)} to ${quoted(run.last)}` : "";
    return { expert: best[0], before: `At ${this.nameOfLayer(layer)}, `, said, after: `${inARow}.` };
  }

  nameOfLayer(layer) {
    return `${this.word} ${this.layers[layer]}`;
  }

  sentence(layer, token) {
    const phase = this.generated[token] ? " · generated" : this.templates.has(token) ? " · of the chat template" : "";
    const choice = `${this.nameOfLayer(layer)} · ${this.choice(layer, token)}`;
    return `${this.data.texts[token]} · ${choice}${phase}`;
  }

  // Which one a token is, counted from 1 as people do.
  which(token) {
    const text = this.data.sequences ? ` of text ${this.data.sequences[token] + 1}` : "";
    const whole = !this.data.sequences && this.positions[0] === 0 && this.positions[this.T - 1] === this.T - 1;
    return `${this.item} ${this.positions[token] + 1}${text}${whole ? ` of ${this.T}` : ""}${this.generated[token] ? ", generated" : ""}`;
  }
}

// What the routers decided in one run, and which tokens are likely next.
class Routing {
  constructor(data) {
    this.experts = numbers(data.experts, Int16Array);
    this.weights = numbers(data.weights, Float32Array);
    this.scores = numbers(data.scores, Uint16Array);
    this.next = data.next ? new NextTokens(data.next) : null;
  }
}

const AFTER = 5; // likeliest next tokens

class NextTokens {
  constructor({ texts, ids, p, lensIds, lensP }) {
    this.texts = texts;
    this.ids = numbers(ids, Int32Array);
    this.p = numbers(p, Float32Array);
    this.lensIds = numbers(lensIds, Int32Array);
    this.lensP = numbers(lensP, Float32Array);
    this.T = this.p.length / AFTER;
  }

  // The likeliest first.
  after(token) {
    return this.five(this.ids, this.p, token);
  }

  // If the model stopped after that layer; null where that is not known.
  lens(layer, token) {
    return this.lensP && this.five(this.lensIds, this.lensP, layer * this.T + token);
  }

  five(ids, p, row) {
    const list = [];
    for (let at = row * AFTER; at < (row + 1) * AFTER; at++) if (ids[at] >= 0) list.push({ id: ids[at], text: this.texts[ids[at]], p: p[at] });
    return list;
  }
}
