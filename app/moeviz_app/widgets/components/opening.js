// The opening of the story: one Transformer layer, whose feed-forward block opens into experts and a router, with the
// numbers of one token; then the router's rows as arrows in a plane; then experts that choose tokens. All was recorded.

const WARM = "217, 102, 10", COLD = "129, 122, 214"; // above and below 0, on a light page and on a dark one
const PLANE = { width: 560, height: 430 };
const two = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const rms = (row) => Math.sqrt(dot(row, row) / row.length) || 1;

// Half-precision floats, in base64.
function halves(base64) {
  return Float32Array.from(numbers(base64, Uint16Array), (bits) => {
    const [sign, exponent, part] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    return sign * (exponent ? (1 + part / 1024) * 2 ** (exponent - 15) : part * 2 ** -24);
  });
}

class Opening {
  constructor(root, data) {
    rich.sources = data.sources;
    const { tokens, layers, width, experts, topK, shown, colours } = data;
    Object.assign(this, { root, data, tokens, width, experts, topK, colours, layer: shown[0], token: shown[1], turned: null, by: "token" });
    this.arrays = { x: halves(data.x), residual: halves(data.residual), answers: halves(data.answers), router: numbers(data.router, Float32Array), others: halves(data.others) };
    this.pin = ["score", null];
    this.tokenChoice = new Choice("Token", tokens.map((text) => button("word", text, null, null)), (at) => this.pick({ token: at }));
    this.layerChoice = new Choice("Layer", Array.from({ length: layers }, (_, at) => button("kind", `${at}`, `layer ${at}`, null)), (at) => this.pick({ layer: at }));
    this.parts = Object.fromEntries(["picture", "inside", "why", "plane", "chooser"].map((name) => [name, make("div", name)]));
    this.parts.why.setAttribute("aria-live", "polite");
    const { picture, inside, why, plane, chooser } = this.parts;
    const bar = holding(make("div", "bar"), make("span", "", "One sentence:"), this.tokenChoice.box, make("span", "", "layer"), this.layerChoice.box);
    const open = holding(make("div", "open"), picture, holding(make("div", "numbers"), inside, why));
    root.replaceChildren(this.head("what"), bar, open, this.head("who"), plane, this.folded("other", chooser));
    this.pick({});
    new ResizeObserver(() => this.drawInside()).observe(inside);
  }

  head(name) {
    const { title, lead } = this.data.words[name];
    return holding(make("div", "head"), make("h2", "", title), rich(make("p", ""), lead));
  }

  folded(name, inside) {
    const { title, lead } = this.data.words[name];
    return holding(make("details"), make("summary", "", title), rich(make("p", "lead"), lead), inside);
  }

  pick(changed) {
    Object.assign(this, changed, { turned: null });
    this.read();
    this.pair = [...this.chosen];
    if (this.pin[0] === "score" || !this.chosen.includes(this.pin[1])) this.pin = ["score", this.chosen[0]];
    this.tokenChoice.show(this.token);
    this.layerChoice.show(this.layer);
    this.drawPicture();
    this.drawInside();
    this.drawPlane();
    this.drawChooser();
  }

  // The numbers of a token in this layer.
  row(name, at, width = this.width) {
    return this.arrays[name].subarray(at * width, (at + 1) * width);
  }

  read() {
    const { layer, token, tokens, experts, topK } = this;
    this.x = this.row("x", layer * tokens.length + token);
    this.rows = Array.from({ length: experts }, (_, e) => this.row("router", layer * experts + e));
    this.scores = this.rows.map((row) => dot(row, this.x));
    this.shares = softmaxOf(this.scores);
    this.order = [...this.scores.keys()].sort((a, b) => this.scores[b] - this.scores[a]);
    this.chosen = this.order.slice(0, topK);
    this.weights = softmaxOf(this.chosen.map((e) => this.scores[e]));
    this.answers = this.chosen.map((_, k) => this.row("answers", (layer * tokens.length + token) * topK + k));
    this.sum = this.x.map((_, i) => dot(this.weights, this.answers.map((answer) => answer[i])));
    this.residual = this.row("residual", layer * tokens.length + token);
  }

  // A Transformer layer from below, with its feed-forward block open.
  drawPicture() {
    const svg = document.createElementNS(SVG, "svg");
    filled(svg, null, { viewBox: "0 0 204 430", role: "img", "aria-label": `Layer ${this.layer}: attention, then a feed-forward block of ${this.experts} experts and a router` });
    const text = (y, words, className = "") => shape(svg, "text", { x: 92, y, class: className }, words);
    const path = (d) => shape(svg, "path", { d, class: "way" });
    const box = (y, height, words, below) => {
      shape(svg, "rect", { x: 20, y, width: 144, height, rx: 8, class: "part" });
      text(y + (below ? height / 2 - 3 : height / 2 + 5), words);
      if (below) text(y + height / 2 + 14, below, "small");
    };
    text(14, "One Transformer layer");
    path("M92 404V30m-5 9l5 -9l5 9M92 384H184V288H103M92 268H184V64H103");
    box(316, 50, "Attention", "one for all tokens");
    box(222, 28, "Norm");
    shape(svg, "rect", { x: 6, y: 84, width: 172, height: 122, rx: 10, class: "part hot" });
    text(104, "Feed-forward block");
    text(120, `${this.experts} experts instead of one`, "small");
    this.rows.forEach((_, e) => {
      const on = this.chosen.includes(e);
      const made = shape(svg, "rect", { x: 14 + e * 20, y: 130, width: 17, height: 34, rx: 4, class: "part" });
      if (on) made.style.fill = this.colours[e];
      shape(svg, "text", { x: 22.5 + e * 20, y: 152, class: "small", style: on ? `fill:${inkOn(this.colours[e])}` : "" }, e);
    });
    shape(svg, "rect", { x: 50, y: 174, width: 84, height: 24, rx: 12, class: "router" });
    text(191, "router", "on-dark");
    for (const y of [64, 288]) {
      shape(svg, "circle", { cx: 92, cy: y, r: 11, class: "part" });
      text(y + 5, "+");
    }
    text(424, `“${this.tokens[this.token]}”`);
    this.parts.picture.replaceChildren(svg);
  }

  strip(label, row, scale) {
    const made = make("canvas", "strip", null, { role: "img", "aria-label": label, height: 16 });
    made.paint = (mark) => {
      const wide = (made.width = made.clientWidth || 200);
      const pen = made.getContext("2d");
      row.forEach((value, i) => {
        const strength = Math.min(1, Math.abs(value) / scale) ** 0.7;
        pen.fillStyle = `rgba(${value > 0 ? WARM : COLD}, ${strength})`;
        pen.fillRect((i * wide) / row.length, 0, wide / row.length + 0.3, 16);
      });
      if (mark >= 0) pen.strokeRect((mark * wide) / row.length - 1, 0.5, wide / row.length + 2, 15);
    };
    made.onmousemove = made.onclick = (event) => {
      const { left, width } = made.getBoundingClientRect();
      this.point("number", clamped(Math.floor(((event.clientX - left) / width) * row.length), row.length - 1));
    };
    return made;
  }

  drawInside() {
    const { chosen, order, weights, width } = this;
    this.strips = [];
    const strip = (label, row) => {
      this.strips.push(this.strip(label, row, 2.2 * rms(row)));
      return this.strips.at(-1);
    };
    const number = (kind, e, text) => {
      const made = button("number", text, null, () => this.point(kind, e));
      made.onmouseenter = made.onfocus = made.onclick;
      made.dataset.of = `${kind} ${e}`;
      return made;
    };
    const heads = ["expert", `its row of the router: ${width} weights`, "score", "softmax", "weight", `its answer: ${width} numbers`];
    const cells = heads.map((text, at) => make("span", at === 1 ? "head rows" : "head", text));
    cells[2].append(make("span", "rows", " = row · x"));
    this.rows.forEach((row, e) => {
      const k = chosen.indexOf(e);
      const id = make("span", "id", e);
      if (k >= 0) id.style.cssText = painted(this.colours[e]);
      const rows = strip(`row ${e} of the router`, row);
      rows.classList.add("rows");
      const share = number("softmax", e, percent(this.shares[e]));
      share.style.setProperty("--share", `${100 * this.shares[e]}%`);
      const weight = k >= 0 ? number("weight", e, two(weights[k])) : make("span", "pale", e === order[chosen.length] ? "third" : "");
      const answer = k >= 0 ? strip(`answer of expert ${e}`, this.answers[k]) : make("span", "pale", "not computed");
      cells.push(id, rows, number("score", e, two(this.scores[e])), share, weight, answer);
    });
    const sum = chosen.map((e, k) => `${two(weights[k])} × answer of ${e}`).join(" + ");
    const line = (words, row, label) => holding(make("div", "line"), rich(make("span"), words), strip(label, row));
    this.parts.inside.replaceChildren(
      line(`**x**: the token by now, ${width} numbers`, this.x, "x"),
      holding(make("div", "table"), ...cells),
      line(`**y** = ${sum}`, this.sum, "y"),
    );
    this.point(...this.pin);
  }

  // What made the number that is pointed at.
  point(kind, at) {
    this.pin = [kind, at];
    for (const one of this.parts.inside.querySelectorAll(".number")) one.classList.toggle("on", one.dataset.of === `${kind} ${at}`);
    for (const strip of this.strips) strip.paint(kind === "number" ? at : -1);
    const { words, bars } = this[kind](at);
    this.parts.why.replaceChildren(rich(make("p"), words), barsOf(bars));
  }

  score(e) {
    const products = Array.from(this.x, (value, i) => [`${i}`, value * this.rows[e][i]]).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
    const rest = products.slice(8).reduce((sum, [, value]) => sum + value, 0);
    const size = (this.experts * this.width).toLocaleString("en");
    return {
      words: `**Score of expert ${e}: ${two(this.scores[e])}.** Each number of x times the weight at its place in row ${e}, added up. **The router is one matrix** of ${this.experts} × ${this.width} = ${size} weights; an expert has ${this.data.expertSize.toLocaleString("en")}.`,
      bars: [...products.slice(0, 8), ["rest", rest]],
    };
  }

  softmax(e) {
    const [best, next] = this.chosen;
    const times = (this.shares[best] / this.shares[next]).toFixed(1);
    return {
      words: `**Softmax: ${percent(this.shares[e])} for expert ${e}.** e to the power of its score, divided by the sum of that over all ${this.experts}. All shares are positive and add up to 1. A lead of ${two(this.scores[best] - this.scores[next])} makes expert ${best} ${times} times as likely as expert ${next}.`,
      bars: this.shares.map((share, i) => [`${i}`, share]),
    };
  }

  weight(e) {
    const kept = this.chosen.map((i) => percent(this.shares[i]));
    const third = this.order[this.chosen.length];
    return {
      words: `**Weight of expert ${e}: ${two(this.weights[this.chosen.indexOf(e)])}.** Only the ${this.topK} best stay (top ${this.topK}), and their shares, ${kept.join(" and ")}, are divided by their sum. The other ${this.experts - this.topK} are **not computed**: that is the saving. Expert ${third} was third with ${percent(this.shares[third])} and gets nothing[8].`,
      bars: this.order.slice(0, 3).map((i) => [`${i}`, this.shares[i]]),
    };
  }

  number(i) {
    const parts = this.chosen.map((e, k) => `${two(this.weights[k])} × ${two(this.answers[k][i])} (expert ${e})`);
    return {
      words: `**Number ${i}:** ${parts.join(" + ")} = **${two(this.sum[i])}**. It is added to ${two(this.residual[i])}, what the token was before the block: ${two(this.residual[i] + this.sum[i])} goes on.`,
      bars: [...this.chosen.map((e, k) => [`from ${e}`, this.weights[k] * this.answers[k][i]]), ["y", this.sum[i]]],
    };
  }

  // Two rows of the router as arrows, tokens as points. In the plane of both rows, each score is exact: nothing is lost.
  drawPlane() {
    const [one, other] = this.pair;
    const own = (row, e) => this.turned?.[e] ?? row;
    const gram = [dot(this.rows[one], this.rows[one]), dot(this.rows[one], this.rows[other]), dot(this.rows[other], this.rows[other])];
    const length = Math.sqrt(gram[0]);
    const height = Math.sqrt(gram[2] - (gram[1] / length) ** 2);
    this.arrows = [own([length, 0], 0), own([gram[1] / length, height], 1)];
    const place = (a, b) => [a / length, (b - (gram[1] / gram[0]) * a) / height];
    const { others, tokens } = { others: this.data.texts.length, tokens: this.tokens };
    const points = Array.from({ length: others }, (_, n) => {
      const scores = this.row("others", this.layer * others + n, this.experts);
      const best = [...scores.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, this.topK);
      return { at: place(scores[one], scores[other]), text: this.data.texts[n], pale: !best.includes(one) && !best.includes(other) };
    });
    tokens.forEach((text, t) => {
      const x = this.row("x", this.layer * tokens.length + t);
      points.push({ at: place(dot(this.rows[one], x), dot(this.rows[other], x)), text, own: true, now: t === this.token });
    });
    const most = Math.max(...points.flatMap(({ at }) => at.map(Math.abs)), 1);
    const scale = (0.47 * PLANE.height) / most;
    const long = (0.42 * PLANE.height) / Math.max(...this.arrows.map((arrow) => Math.hypot(...arrow)));
    const screen = ([x, y], by) => [PLANE.width / 2 + x * by, PLANE.height / 2 - y * by];
    const svg = document.createElementNS(SVG, "svg");
    filled(svg, null, { viewBox: `0 0 ${PLANE.width} ${PLANE.height}`, class: "tokens", role: "group", "aria-label": `Tokens as points, the rows of experts ${one} and ${other} as arrows` });
    const across = [this.arrows[0][1] - this.arrows[1][1], this.arrows[1][0] - this.arrows[0][0]];
    const far = 900 / (Math.hypot(...across) || 1);
    const [from, to] = [screen(across, -far), screen(across, far)];
    shape(svg, "path", { class: "border", d: `M${from}L${to}` });
    let [changed, first, named] = [0, 0, null];
    for (const { at, text, pale, own: mine, now } of points) {
      const side = (arrows) => (dot(arrows[0], at) >= dot(arrows[1], at) ? 0 : 1);
      const [before, after] = [side([[length, 0], [gram[1] / length, height]]), side(this.arrows)];
      if (!mine) [changed, first] = [changed + (before !== after), first + (after === 0)];
      const [x, y] = screen(at, scale);
      const made = shape(svg, "circle", { cx: x, cy: y, r: mine ? 6 : 3.4, class: `${mine ? "mine" : ""}${pale ? " faint" : ""}${before !== after ? " changed" : ""}` });
      made.style.fill = this.colours[this.pair[after]];
      shape(made, "title", {}, text);
      if (now) named = [x + 9, y + 4, `“${text}”`];
    }
    this.arrows.forEach((arrow, k) => {
      const [x, y] = screen(arrow, long);
      shape(svg, "path", { class: "arrow", d: `M${PLANE.width / 2} ${PLANE.height / 2}L${x} ${y}`, style: `stroke:${this.colours[this.pair[k]]}` });
      const head = shape(svg, "g", { class: "handle", tabindex: 0, role: "slider", "aria-label": `turn the row of expert ${this.pair[k]}`, "aria-valuenow": Math.round((Math.atan2(arrow[1], arrow[0]) * 180) / Math.PI) });
      shape(head, "circle", { cx: x, cy: y, r: 13, style: `fill:${this.colours[this.pair[k]]}` });
      shape(head, "text", { x, y: y + 5, style: `fill:${inkOn(this.colours[this.pair[k]])}` }, this.pair[k]);
      head.onpointerdown = (event) => this.drag(event, svg, k, long);
      head.onkeydown = (event) => {
        const by = { ArrowLeft: 0.1, ArrowUp: 0.1, ArrowRight: -0.1, ArrowDown: -0.1 }[event.key];
        if (!by) return;
        event.preventDefault();
        event.stopPropagation();
        this.turn(k, [arrow[0] * Math.cos(by) - arrow[1] * Math.sin(by), arrow[0] * Math.sin(by) + arrow[1] * Math.cos(by)]);
        this.parts.plane.querySelectorAll(".handle")[k].focus();
      };
    });
    if (named) shape(svg, "text", { x: named[0], y: named[1], class: "start" }, named[2]); // above all points
    const experts = (k) => {
      const choice = new Choice(k ? "The other expert" : "One expert", this.rows.map((_, e) => button("kind", `${e}`, `expert ${e}`, null)), (e) => {
        if (this.pair[1 - k] === e) this.pair[1 - k] = this.pair[k];
        this.pair[k] = e;
        this.turned = null;
        this.drawPlane();
      });
      choice.show(this.pair[k]);
      return choice.box;
    };
    const told = `Of ${others} other tokens, **${first}** score higher on ${one} and **${others - first}** on ${other}${this.turned ? `; **${changed} have changed sides**` : ""}.`;
    const back = button("", "Back to the trained rows", null, () => this.pick({}));
    back.disabled = !this.turned;
    const words = holding(make("div", "beside"), rich(make("p"), this.data.words.who.say), experts(0), experts(1), rich(make("p", "", null, { role: "status" }), told), back, make("p", "pale", this.data.words.who.note));
    this.parts.plane.replaceChildren(svg, words);
  }

  turn(k, arrow) {
    this.turned = this.arrows.map((now, at) => (at === k ? arrow : now));
    this.drawPlane();
  }

  drag(event, svg, k, long) {
    event.preventDefault();
    const move = ({ clientX, clientY }) => {
      const { left, top, width } = this.parts.plane.querySelector("svg").getBoundingClientRect();
      const by = PLANE.width / width;
      this.turn(k, [((clientX - left) * by - PLANE.width / 2) / long, (PLANE.height / 2 - (clientY - top) * by) / long]);
    };
    const end = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
  }

  // The same scores, read by row or by column: each token takes its best experts, or each expert its best tokens.
  drawChooser() {
    const rows = this.tokens.slice(1).map((text, i) => {
      const x = this.row("x", this.layer * this.tokens.length + i + 1);
      return { text, shares: softmaxOf(this.rows.map((row) => dot(row, x))) };
    });
    const each = Math.round((rows.length * this.topK) / this.experts);
    const best = (values, count) => new Set([...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, count));
    const byToken = rows.map(({ shares }) => best(shares, this.topK));
    const byExpert = this.rows.map((_, e) => best(rows.map(({ shares }) => shares[e]), each));
    const taken = rows.map((_, t) => this.rows.map((__, e) => (this.by === "token" ? byToken[t].has(e) : byExpert[e].has(t))));
    const load = this.rows.map((_, e) => taken.filter((row) => row[e]).length);
    const counts = taken.map((row) => row.filter(Boolean).length);
    const head = holding(make("tr"), make("th", "", "softmax, %"), ...this.rows.map((_, e) => make("th", "", e)), make("th", "", "experts"));
    const lines = rows.map(({ text, shares }, t) => {
      const cells = shares.map((share, e) => {
        const cell = make("td", "", Math.round(100 * share));
        if (taken[t][e]) cell.style.cssText = painted(this.colours[e]);
        return cell;
      });
      return holding(make("tr"), make("th", "", text), ...cells, make("td", counts[t] === this.topK ? "" : "wrong", counts[t]));
    });
    const foot = holding(make("tr"), make("th", "", "tokens"), ...load.map((count) => make("td", "", count)), make("td"));
    const choice = new Choice("Who chooses", [button("kind", `Each token takes its ${this.topK} best experts`, null, null), button("kind", `Each expert takes its ${each} best tokens`, null, null)], (at) => {
      this.by = at ? "expert" : "token";
      this.drawChooser();
    });
    choice.show(this.by === "token" ? 0 : 1);
    const range = (values) => `${Math.min(...values)} to ${Math.max(...values)}`;
    const told =
      this.by === "token"
        ? `Every token gets ${this.topK} experts, and the load is what it happens to be: **${range(load)}** tokens per expert.`
        : `Every expert gets ${each} tokens: **balanced without any loss**[16]. But tokens get ${range(counts)} experts, and which ones may depend on tokens that **come after**, so a model that writes token by token cannot use it as it is.`;
    this.parts.chooser.replaceChildren(choice.box, rich(make("p", "", null, { role: "status" }), told), holding(make("div", "scroll"), holding(make("table"), head, ...lines, foot)));
  }
}

function softmaxOf(scores) {
  const most = Math.max(...scores);
  const powers = Array.from(scores, (score) => Math.exp(score - most));
  const sum = powers.reduce((all, power) => all + power, 0);
  return powers.map((power) => power / sum);
}

function barsOf(bars) {
  const [wide, most] = [390 / bars.length, Math.max(...bars.map(([, value]) => Math.abs(value))) || 1];
  const svg = document.createElementNS(SVG, "svg");
  filled(svg, null, { viewBox: "0 0 390 98", class: "bars", "aria-hidden": "true" });
  bars.forEach(([name, value], i) => {
    const high = (38 * Math.abs(value)) / most;
    shape(svg, "rect", { x: i * wide + 1.5, y: value > 0 ? 42 - high : 42, width: wide - 3, height: Math.max(1, high), style: `fill:rgb(${value > 0 ? WARM : COLD})` });
    shape(svg, "text", { x: (i + 0.5) * wide, y: 95 }, name);
  });
  return svg;
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".opening");
  root.opening ??= new Opening(root, data);
}
