// The whole path of a token: at each layer the router, its experts as glasses filled to the router's score, the chosen
// ones lit, with curves as wide as their weights; beside them their names. Of many layers, or of many experts, each layer
// is a line of cells, and the chosen one is opened as under a lens.

const GLASSES = 16; // experts that can stand side by side, each with its id
const OPEN_LAYERS = 8; // that can be open at once
const ALL_LAYERS = 430; // pixels
const [LOWEST, HIGHEST] = [53, 71]; // pixels of an open layer
const ON_A_PHONE = 82; // the names stand under the glasses
const NARROW = 460; // pixels of the card
const HEAD = 36; // where the layers begin: above them is the token
const GLASS = 30; // high
const BESIDE_GLASSES = 24; // for the layer's index
const GLASSES_WIDE = 244; // beside them there is room for names
const LENS = 118; // pixels of an open layer among lines
const NAMES_HIGH = 17;
const GUESS_WIDE = 66; // at the right end, of what the model would write next

class Path {
  constructor(explorer) {
    this.explorer = explorer;
    this.box = make("div", "path");
    const { trace } = explorer;
    this.isOpen = trace.most <= GLASSES && trace.L <= OPEN_LAYERS;
    new ResizeObserver(() => this.width !== this.box.clientWidth && this.draw()).observe(this.box);
  }

  // Where everything stands.
  measure() {
    const { trace, layer } = this.explorer;
    this.width = this.box.clientWidth;
    const narrow = (this.narrow = this.width < NARROW);
    const wide = (this.wide = narrow ? this.width - BESIDE_GLASSES - 2 : this.isOpen ? GLASSES_WIDE : this.width - 200);
    this.middle = BESIDE_GLASSES + wide / 2;
    this.x = (expert, at = layer) => BESIDE_GLASSES + ((expert + 0.5) * wide) / trace.counts[at];
    if (this.isOpen) {
      const high = narrow ? ON_A_PHONE : clamped(Math.floor(ALL_LAYERS / trace.L), HIGHEST);
      this.high = Math.max(LOWEST, high);
      this.top = (at) => HEAD + at * this.high + 20;
      this.height = HEAD + trace.L * this.high + 6;
    } else {
      const lens = narrow ? LENS + 3 * NAMES_HIGH : LENS;
      this.line = Math.max(4, Math.min(16, Math.floor((ALL_LAYERS - lens) / Math.max(trace.L - 1, 1))));
      this.high = lens;
      this.lineOf = (at) => HEAD + at * this.line + (at > layer ? lens - this.line : 0);
      this.top = () => HEAD + layer * this.line + 34;
      this.height = HEAD + (trace.L - 1) * this.line + lens + 6;
    }
  }

  bottom(at) {
    return this.top(at) + GLASS;
  }

  // Where the curves of a layer come from, and where they meet again.
  from(at) {
    if (!this.isOpen) return this.top(at) - 34;
    return at ? this.bottom(at - 1) + 18 : 27;
  }

  meet(at) {
    return this.bottom(at) + (this.isOpen ? 18 : 26);
  }

  draw() {
    const { trace, token, layer } = this.explorer;
    this.measure();
    if (!this.width) return; // not laid out yet
    const picture = make("div");
    const name = `The path of ${trace.data.texts[token]} through every ${trace.word}`;
    this.svg = shape(picture, "svg", { viewBox: `0 0 ${this.width} ${this.height}`, role: "group", "aria-label": name });
    this.svg.style.height = `${this.height}px`;
    const high = this.isOpen ? this.high - 2 : this.high - 4;
    const top = this.isOpen ? this.top(layer) - 17 : this.lineOf(layer) + 2;
    this.now = shape(this.svg, "rect", { class: "now", x: -8, y: top, width: this.width + 16, height: high, rx: 7 });
    this.drawToken();
    if (this.isOpen) for (let at = 0; at < trace.L; at++) this.drawLayer(at);
    else this.drawLines();
    const spot = this.box.getRootNode().activeElement?.dataset.spot;
    this.box.replaceChildren(picture);
    if (spot) this.box.querySelector(`[data-spot="${spot}"]`)?.focus({ preventScroll: true }); // the keyboard stays where it is
    this.explorer.player?.drawDots();
  }

  drawToken() {
    const { trace, token } = this.explorer;
    const shown = cut(trace.data.texts[token], 24);
    const half = Math.max(14, 4.3 * wideness(shown) + 8);
    shape(this.svg, "rect", { x: this.middle - half, y: 2, width: 2 * half, height: 25, rx: 6, class: "ink" });
    shape(this.svg, "text", { x: this.middle, y: 19, class: "pill" }, shown);
    if (this.hasGuesses())
      shape(this.svg, "text", { x: this.width, y: 17, class: "soft end" }, "next guess");
  }

  drawLayer(at) {
    const { trace, token } = this.explorer;
    const list = trace.chosen(at, token);
    this.drawCurves(at, list);
    this.drawIndex(at, this.top(at) + 20);
    for (let expert = 0; expert < trace.counts[at]; expert++) this.drawGlass(at, expert, list);
    this.drawNames(at, list);
    this.drawGuess(at, this.top(at) + 12);
  }

  drawIndex(at, y) {
    const { explorer } = this;
    const chosen = at === explorer.layer;
    const text = shape(this.svg, "text", { x: 0, y, class: chosen ? "index bold" : "index" }, explorer.trace.layers[at]);
    text.onclick = () => explorer.choose({ layer: at });
  }

  drawCurves(at, list) {
    const { trace } = this.explorer;
    const [from, top, bottom, meet] = [this.from(at), this.top(at), this.bottom(at), this.meet(at)];
    const down = (expert) => bent(this.middle, from, this.x(expert, at), top);
    if (trace.counts[at] <= GLASSES) {
      const others = Array.from({ length: trace.counts[at] }, (_, expert) => expert).filter((expert) => !list.some((choice) => choice.expert === expert));
      if (others.length) shape(this.svg, "path", { d: others.map(down).join(" "), class: "dim" });
    }
    if (!list.length) shape(this.svg, "path", { d: `M${this.middle},${from} V${meet}`, class: trace.isRecorded(at, this.explorer.token) ? "passed" : "dim" });
    for (const { expert, weight } of list) {
      const width = 1.5 + 11 * Math.min(Math.abs(weight ?? 0.3), 1);
      const ways = { down: down(expert), up: bent(this.x(expert, at), bottom, this.middle, meet) };
      for (const [part, d] of Object.entries(ways)) {
        shape(this.svg, "path", { d, class: "halo", "stroke-width": width + 2 }); // seen where the colour is the page's
        const stroke = trace.colour(at, expert);
        shape(this.svg, "path", { d, class: "lit", stroke, "stroke-width": width, "data-way": `${at} ${expert} ${part}` });
      }
    }
    shape(this.svg, "circle", { cx: this.middle, cy: meet, r: 4, class: "ink" });
  }

  // A glass, filled to the router's score where that is known. A click mutes its expert.
  drawGlass(at, expert, list) {
    const { explorer } = this;
    const { trace, token } = explorer;
    const lit = list.some((choice) => choice.expert === expert);
    const muted = explorer.isMuted(at, expert);
    const colour = trace.colour(at, expert);
    const score = trace.score(at, token, expert);
    const [wide, y] = [this.wide / trace.counts[at], this.top(at)];
    const x = this.x(expert, at) - wide / 2 + 2;
    const box = { x, width: Math.max(wide - 4, 2), rx: 5 };
    const glass = shape(this.svg, "g", { class: lit ? "glass lit-glass" : "glass" });
    filled(glass, null, { tabindex: lit || muted ? 0 : -1, "data-spot": `glass ${at} ${expert}` });
    const name = trace.nameOf(at, expert);
    const scored = score === null ? "" : `. The router's score: ${percent(score)}`;
    const act = explorer.canMute ? (muted ? ". Muted: click to bring it back" : ". Click to mute it") : "";
    const said = `Expert ${expert} of ${trace.nameOfLayer(at)}${name ? `, ${name[1]}` : ""}${scored}${act}`;
    filled(glass, null, { role: "button", "aria-label": said, ...(explorer.canMute ? { "aria-pressed": String(muted) } : {}) });
    shape(glass, "title", {}, said);
    shape(glass, "rect", { ...box, y, height: GLASS, class: "body", ...(lit ? { stroke: colour } : {}) });
    if (muted) this.hatch(glass, box, y);
    else {
      const level = GLASS * (lit ? 1 : (score ?? 0));
      if (level > 0.25) shape(glass, "rect", { ...box, y: y + GLASS - level, height: level, class: "level", fill: colour });
    }
    // In columns, the ids of the first row are those of all.
    const heads = !this.isOpen || trace.counts[at] !== trace.counts[at - 1];
    if (wide >= 13 && (heads || lit || muted)) shape(glass, "text", { x: this.x(expert, at), y: y + 20, class: "id", style: lit && !muted ? `fill:${inkOn(colour)}` : "" }, expert);
    glass.onclick = () => explorer.press(at, expert);
    glass.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      explorer.press(at, expert);
      event.preventDefault();
      event.stopPropagation();
    };
    if (muted) return;
    glass.onpointerenter = () => explorer.heat({ layer: at, expert });
    glass.onpointerleave = () => explorer.heat(null);
  }

  hatch(glass, box, y) {
    for (let x = 0; x + 4 < box.width; x += 9)
      shape(glass, "path", { d: `M${box.x + x + 1},${y + GLASS - 1} l${Math.min(7, box.width - x)},${2 - GLASS}`, class: "hatch" });
    shape(glass, "rect", { ...box, y, height: GLASS, class: "muted" });
  }

  // The names of the chosen experts, with their weights: ways to the experts' pages.
  drawNames(at, list) {
    const { trace } = this.explorer;
    const weighed = list.length && list[0].weight !== null ? trace.weighed(list) : null;
    if (this.narrow && this.isOpen) {
      list.slice(0, 2).forEach((choice, place) => {
        const where = place ? { x: this.width, class: "end" } : { x: BESIDE_GLASSES - 2, class: "start" };
        this.drawName(at, choice, weighed?.[place], { ...where, y: this.bottom(at) + 17 }, 9);
      });
      return;
    }
    const from = BESIDE_GLASSES + this.wide + 10;
    const rows = this.isOpen ? Math.max(2, Math.floor((this.high - 16) / NAMES_HIGH)) : Math.floor((this.high - 10) / NAMES_HIGH);
    const shown = list.length > rows ? list.slice(0, rows - 1) : list;
    const [x, y] = this.narrow ? [BESIDE_GLASSES, this.meet(at) + 20] : [from, this.isOpen ? this.top(at) + 12 : this.lineOf(at) + 20];
    const letters = Math.floor((this.width - x - (this.hasGuesses() ? GUESS_WIDE : 0) - 36) / 5.9);
    shown.forEach((choice, place) => this.drawName(at, choice, weighed?.[place], { x, y: y + place * NAMES_HIGH, class: "start" }, letters));
    const more = list.length - shown.length;
    if (more) shape(this.svg, "text", { x, y: y + shown.length * NAMES_HIGH, class: "soft start" }, `and ${more} more`);
    if (!list.length) shape(this.svg, "text", { x, y, class: "soft start" }, trace.isRecorded(at, this.explorer.token) ? "no expert" : "not recorded");
  }

  drawName(at, { expert }, weight, { class: place, ...where }, letters) {
    const { explorer } = this;
    const { trace } = explorer;
    const name = trace.nameOf(at, expert);
    const link = explorer.linkTo(at, expert, shape(this.svg, "a", { class: "named", "data-spot": `name ${at} ${expert}` }));
    filled(link, null, { "aria-label": `Expert ${expert} of ${trace.nameOfLayer(at)}: open its page` });
    shape(link, "title", {}, `${name ? name[1] : trace.names ? "No kind of text" : `Expert ${expert}`}. Open its page`);
    const text = shape(link, "text", { ...where, class: place });
    shape(text, "tspan", { class: explorer.isNew(at, expert) ? "bold new" : "bold" }, `${expert} `);
    const fits = name && [...name[0]].length <= letters;
    const words = name ? (fits ? name[0] : name[0].split(", ")[0]) : trace.names ? "no kind of text" : "";
    if (words) shape(text, "tspan", { class: name ? "" : "soft" }, `${cut(words, letters)} `);
    if (weight) shape(text, "tspan", { class: "soft" }, weight);
  }

  // Not where an expert is muted: the lens is of the whole model.
  hasGuesses() {
    const { trace } = this.explorer;
    return this.isOpen && !this.narrow && trace.now === trace.plain && Boolean(trace.next?.lensP);
  }

  // What the model would write if it stopped after this layer.
  drawGuess(at, y) {
    const { trace, token } = this.explorer;
    if (!this.hasGuesses() || at === trace.L - 1) return;
    const [best] = trace.next.lens(at, token);
    shape(this.svg, "text", { x: this.width, y, class: "mono end" }, cut(best.text, 9));
    shape(this.svg, "text", { x: this.width, y: y + 16, class: "soft end" }, percent(best.p));
  }

  // Every layer as a line of cells with the chosen experts in it, and the chosen layer open.
  drawLines() {
    const { explorer } = this;
    const { trace, token, layer } = explorer;
    const every = Math.ceil(13 / this.line);
    for (let at = 0; at < trace.L; at++) {
      if (at === layer) continue;
      const y = this.lineOf(at);
      const line = shape(this.svg, "g", { class: "line" });
      line.onclick = () => explorer.choose({ layer: at });
      shape(line, "title", {}, trace.sentence(at, token));
      shape(line, "rect", { x: BESIDE_GLASSES, y, width: this.wide, height: this.line - 1, class: "cells" });
      for (const { expert } of trace.chosen(at, token)) {
        const wide = Math.max(3, this.wide / trace.counts[at] - 1);
        shape(line, "rect", { x: this.x(expert, at) - wide / 2, y, width: wide, height: this.line - 1, fill: trace.colour(at, expert) });
      }
      if (at % every === 0 && Math.abs(at - layer) >= every) shape(line, "text", { x: 0, y: y + this.line / 2 + 4, class: "index" }, trace.layers[at]);
    }
    if (trace.counts[layer] <= GLASSES) return this.drawLayer(layer);
    const list = trace.chosen(layer, token);
    this.drawCurves(layer, list);
    this.drawIndex(layer, this.top(layer) + 20);
    this.drawScores(layer, list);
    this.drawNames(layer, list);
  }

  // Of hundreds of experts, the scores as bars, and the chosen ones as high as they may be.
  drawScores(at, list) {
    const { explorer } = this;
    const { trace, token } = explorer;
    const [y, wide] = [this.top(at), this.wide / trace.counts[at]];
    shape(this.svg, "rect", { x: BESIDE_GLASSES, y, width: this.wide, height: GLASS, class: "cells" });
    const scores = Array.from({ length: trace.counts[at] }, (_, expert) => trace.score(at, token, expert) ?? 0);
    const most = Math.max(...scores);
    const bars = scores.map((score, expert) => {
      const high = most ? (GLASS * score) / most : 0;
      return high < 0.5 ? "" : `M${this.x(expert, at)},${y + GLASS} v${-high}`;
    });
    shape(this.svg, "path", { d: bars.join(" ") || "M0,0", class: "scores", "stroke-width": Math.max(1, wide - 1) });
    const muted = explorer.mutedAt(at).filter((expert) => !list.some((choice) => choice.expert === expert));
    for (const expert of [...list.map((choice) => choice.expert), ...muted]) this.drawThin(at, expert, list);
  }

  drawThin(at, expert, list) {
    const { explorer } = this;
    const { trace } = explorer;
    const muted = explorer.isMuted(at, expert);
    const wide = Math.max(5, this.wide / trace.counts[at]);
    const act = explorer.canMute ? (muted ? ": muted. Click to bring it back" : ": click to mute it") : "";
    const said = `Expert ${expert} of ${trace.nameOfLayer(at)}${act}`;
    const spot = `glass ${at} ${expert}`;
    const glass = shape(this.svg, "g", { class: "glass lit-glass", tabindex: 0, role: "button", "aria-label": said, "data-spot": spot });
    shape(glass, "title", {}, said);
    const box = { x: this.x(expert, at) - wide / 2, y: this.top(at) - 4, width: wide, height: GLASS + 8 };
    shape(glass, "rect", muted ? { ...box, class: "muted" } : { ...box, fill: trace.colour(at, expert) });
    glass.onclick = () => explorer.press(at, expert);
    glass.onkeydown = (event) => {
      if (event.key === "Enter" || event.key === " ") explorer.press(at, expert);
    };
    if (list.length > 3 && !list.slice(0, 3).some((choice) => choice.expert === expert)) return;
    shape(this.svg, "text", { x: this.x(expert, at), y: this.top(at) - 8, class: "over" }, expert);
  }
}

function bent(x1, y1, x2, y2) {
  return `M${x1},${y1} C${x1},${y2 - 8} ${x2},${y1 + (y2 > y1 ? 8 : 0)} ${x2},${y2}`;
}

// Letters, where one of a wide script is two.
function wideness(text) {
  return [...text].reduce((sum, letter) => sum + (letter.codePointAt(0) > 0x2e7f ? 2 : 1), 0);
}
