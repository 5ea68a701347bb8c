// One input in a system: a router, arrows, a box for each expert, and the answer. A box that stays from one system to the
// next moves there; the style sheet says how fast, and not at all where motion is reduced.

const HANGS = 36; // pixels below a box: how busy its expert is
const BUSIEST = 4; // times a uniform load that this shows
const CHIP = 26;
const PASSING = 22; // pixels beside the boxes, where a dropped word passes
const THICK = 14; // pixels of a line of weight 1

class Picture {
  constructor(colours) {
    this.colours = colours;
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("role", "img");
    this.lines = shape(this.svg, "g", {});
    this.boxes = shape(this.svg, "g", {});
    this.words = shape(this.svg, "g", {});
    this.kept = new Map();
  }

  // `met`: of each layer which experts the input has, and their weights; see Story.met.
  draw(half, inputs, at, met, width, height) {
    Object.assign(this, { half, width, height, added: new Set(half.added), seen: new Set() });
    this.lines.replaceChildren();
    this.words.replaceChildren();
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.style.height = `${height}px`;
    const middle = width / 2;
    const top = this.chip("input", middle, 0, inputs.drawn.words?.[at] ?? inputs.names[at].replace("the ", ""));
    const bottom = height - CHIP;
    if (half.drawn.tree) this.tree(met, top, bottom - 24);
    else {
      const high = (bottom - top - 4) / met.length;
      met.forEach((layer, row) => this.row(layer, row, met.length, top + row * high, high));
    }
    this.answer(inputs, at, met, bottom);
    for (const [id, group] of this.kept) {
      if (this.seen.has(id)) continue;
      group.remove();
      this.kept.delete(id);
    }
  }

  row(layer, row, rows, top, high) {
    const { half, width } = this;
    const middle = width / 2;
    const many = rows > 2;
    let from = top;
    if (many) this.dot(`dot ${row}`, middle, top + 5);
    else if (layer.on.length > 1) {
      this.line(middle, top, middle, top + 14, 5, null);
      from = this.router(`router ${row}`, middle, top + 14, half.router, this.added.has("router") || this.isNewLayer(row));
    }
    this.hangs = rows > 1 ? HANGS / 2 : HANGS;
    this.thick = many ? THICK / 2 : THICK;
    const below = half.drawn.load || half.drawn.capacity || half.drawn.bias ? this.hangs + 16 : half.drawn.says ? 14 : 0;
    const first = many ? top + 20 : from + (rows > 1 ? 24 : 46);
    const last = top + high - below - (many ? 8 : rows > 1 ? 14 : 36);
    const join = top + high - 2;
    if (rows > 1) this.text(2, many ? (first + last) / 2 + 4 : first - 8, many ? `${half.layers[row]}` : `layer ${half.layers[row]}`, "start pale");
    const left = half.drawn.shared ? (width < 500 ? 40 : 74) : many ? 16 : 0;
    const places = this.experts(layer, row, first, last, left, [[middle, from]], [middle, join]);
    if (half.drawn.shared) this.shared(middle, top, first, last, join);
    if (half.drawn.load) this.hang(places, last, half.drawn.load[row]);
    if (half.drawn.bias) this.bias(places, last);
    if (half.drawn.capacity) this.queue(places, layer, last, from);
    if (half.drawn.says) places.forEach(([x], e) => this.text(x, last + 13, `says ${layer.says[e].toFixed(2)}`, "small"));
  }

  // Of two layers the second is new; of many, those that had no experts while every other block had them.
  isNewLayer(row) {
    return this.added.has("layers") && (this.half.layers.length > 2 ? row % 2 === 0 : row > 0);
  }

  // Boxes of a row, with lines from a router to them and on to where the answers meet. Gives back their middles and widths.
  experts(layer, row, first, last, left, from, to) {
    const { half, colours } = this;
    const width = this.width - (half.drawn.capacity ? PASSING : 0);
    const count = layer.on.length;
    const gap = count > 20 ? 3 : count > 10 ? 5 : width < 500 ? 8 : 16;
    const wide = Math.min(count === 1 ? 140 : 86, (width - left - 4 - (count - 1) * gap) / count);
    const start = left + (width - left - count * wide - (count - 1) * gap) / 2;
    return layer.on.map((on, e) => {
      const x = start + e * (wide + gap) + wide / 2;
      const colour = colours[e % colours.length];
      const [fromX, fromY] = from[Math.floor((e * from.length) / count)];
      this.line(fromX, fromY, x, first, on ? Math.max(1.5, this.thick * layer.weights[e]) : 1, on ? colour : null);
      if (on) this.line(x, last, to[0], to[1], Math.max(1.5, this.thick * layer.weights[e]), colour);
      const fresh = this.added.has("experts") || this.isNewLayer(row) || (e > 7 && this.added.has("small"));
      this.box(`box ${row} ${e}`, x - wide / 2, first, wide, last - first, colour, on, layer.weights[e], fresh);
      if (wide > 11 && count > 1) this.text(x, first - 4, `${e}`, wide < 18 ? "tiny" : "small");
      return [x, wide];
    });
  }

  tree([root, layer], top, bottom) {
    const { width } = this;
    this.thick = THICK;
    const places = [width * 0.26, width * 0.74];
    this.line(width / 2, top, width / 2, top + 14, 5, null);
    const from = this.router("router 0", width / 2, top + 14, "router");
    const leaves = places.map((x, branch) => {
      this.line(width / 2, from, x, from + 44, Math.max(1.5, this.thick * root.weights[branch]), null);
      this.text(x, from + 38, percent(root.weights[branch]), branch ? "start shift" : "end shift");
      return [x, this.router(`router ${branch + 1}`, x, from + 44, "router", this.added.has("routers"))];
    });
    const last = bottom - 44;
    const boxes = this.experts(layer, 0, leaves[0][1] + 44, last, 0, leaves, [width / 2, bottom]);
    boxes.forEach(([x], e) => this.text(x, last + 13, `says ${layer.says[e].toFixed(2)}`, "small"));
  }

  shared(middle, top, first, last, join) {
    const wide = this.width < 500 ? 26 : 44;
    const x = wide / 2 + 2;
    this.line(middle, top, x, first, 6, null);
    this.line(x, last, middle, join, 6, null);
    this.box("shared", 2, first, wide, last - first, null, true, 1, this.added.has("shared"));
    this.text(x, first - 4, "shared", "small");
  }

  // How much each expert has to do in all, beside a uniform load.
  hang(places, top, load) {
    const mean = load.reduce((sum, one) => sum + one, 0) / load.length;
    const total = mean * load.length;
    places.forEach(([x, wide], e) => {
      const high = Math.max(1, this.hangs * Math.min(1, load[e] / mean / BUSIEST));
      this.bar("load", x, wide, top + 3, high);
      const said = Number.isInteger(load[e]) ? `${load[e]}` : percent(load[e] / total);
      if (wide >= 18) this.text(x, top + 6 + high + 10, said, "small");
    });
    const [begin, end] = [places[0], places.at(-1)];
    const y = top + 3 + this.hangs / BUSIEST;
    shape(this.lines, "path", { class: "uniform", d: `M${begin[0] - begin[1] / 2} ${y}H${end[0] + end[1] / 2}` });
  }

  bias(places, top) {
    const most = Math.max(...this.half.drawn.bias.map(Math.abs));
    const zero = top + 22;
    places.forEach(([x, wide], e) => {
      const bias = this.half.drawn.bias[e];
      const high = Math.max(1, (Math.abs(bias) / most) * 18);
      this.bar(bias > 0 ? "load" : "load below", x, wide, bias > 0 ? zero - high : zero, high);
    });
    this.text(this.width - 2, top + HANGS + 16, this.width < 500 ? "bias" : "bias: up for the idle, down for the busy", "end pale");
  }

  // Words that each expert has had before this one, in the outline of what it has room for.
  queue(places, layer, top, from) {
    const { capacity } = this.half.drawn;
    places.forEach(([x, wide], e) => {
      const full = layer.before[e] >= capacity;
      this.bar(full ? "load below" : "load", x, wide, top + 3, (HANGS * layer.before[e]) / capacity);
      this.bar(this.added.has("room") ? "room fresh" : "room", x, wide, top + 3, HANGS);
      this.text(x, top + HANGS + 15, `${layer.before[e]}`, full ? "small wrong" : "small");
    });
    if (layer.dropped < 0) return;
    const [x] = places[layer.dropped];
    const side = this.width - 6;
    const end = this.height - CHIP;
    shape(this.lines, "path", { class: "link wrong", d: curve(this.width / 2, from, x, this.box0[0]), "stroke-width": 6 });
    shape(this.words, "path", { class: "cross", d: `M${x - 10} ${this.box0[1] - 10}l20 20m0 -20l-20 20` });
    shape(this.lines, "path", { class: "link wrong passed", d: `M${this.width / 2} ${from}C${side} ${from} ${side} ${from + 20} ${side} ${(from + end) / 2}S${side} ${end} ${this.width / 2 + 8} ${end}`, "stroke-width": 5 });
  }

  bar(className, x, wide, y, height) {
    shape(this.lines, "rect", { class: className, x: x - wide / 2, y, width: wide, height });
  }

  answer(inputs, at, met, bottom) {
    const { half } = this;
    const layer = met.at(-1);
    const middle = this.width / 2;
    let said = half.answer;
    let right = null;
    if (half.drawn.says) {
      const answer = layer.weights.reduce((sum, weight, e) => sum + weight * layer.says[e], 0);
      said = `answer ${answer.toFixed(2)}`;
      right = [answer > 0.5 === (inputs.drawn.wanted[at] === 1), inputs.drawn.wanted[at]];
    } else if (half.drawn.answers) {
      said = `answer ${half.drawn.answers[at]}`;
      right = [half.drawn.answers[at] === half.drawn.right[at], half.drawn.right[at]];
    } else if (half.drawn.capacity) said = layer.dropped < 0 ? `changed by ${layer.on.indexOf(true)}` : "unchanged";
    if (half.drawn.tree) this.line(middle, bottom - 24, middle, bottom, 5, null);
    this.chip("answer", middle, bottom, said);
    if (right) this.text(middle + 64, bottom + 17, right[0] ? `right: ${right[1]}` : `wrong: it is ${right[1]}`, right[0] ? "start" : "start wrong");
  }

  group(id, make_) {
    this.seen.add(id);
    if (!this.kept.has(id)) {
      const made = shape(this.boxes, "g", { class: "new-here" });
      make_(made);
      this.kept.set(id, made);
    }
    return this.kept.get(id);
  }

  box(id, x, y, width, height, colour, on, weight, fresh) {
    if (id === "box 0 0") this.box0 = [y, y + height / 2];
    const group = this.group(id, (made) => ["card", "tint", "fill", "frame"].forEach((part) => shape(made, "rect", { class: part, rx: 5 })));
    group.setAttribute("class", `box${on ? " on" : ""}${fresh ? " fresh" : ""}`);
    group.style.color = colour ?? "";
    const full = (height - 2) * Math.min(1, weight);
    [...group.children].forEach((part, at) => {
      if (at === 2) placed(part, x + 1, y + height - 1 - full, width - 2, full);
      else placed(part, x, y, width, height);
    });
  }

  plate(id, className, x, y, words, fresh = false) {
    const wide = Math.min(this.width, words.length * 7.4 + 24);
    const group = this.group(id, (made) => {
      shape(made, "rect", { rx: 9 });
      shape(made, "text", {});
    });
    group.setAttribute("class", `${className}${fresh ? " fresh" : ""}`);
    placed(group.children[0], x - wide / 2, y, wide, CHIP);
    group.children[1].textContent = words;
    group.children[1].style.transform = `translate(${x}px, ${y + 17}px)`;
    return y + CHIP;
  }

  chip(id, x, y, words) {
    return this.plate(id, "chip", x, y, cut(words, 30));
  }

  router(id, x, y, words, fresh) {
    return this.plate(id, "router", x, y, words, fresh);
  }

  dot(id, x, y) {
    const group = this.group(id, (made) => shape(made, "rect", { rx: 5 }));
    group.setAttribute("class", "chip");
    placed(group.children[0], x - 5, y - 5, 10, 10);
  }

  line(x1, y1, x2, y2, width, colour) {
    const made = shape(this.lines, "path", { class: "link", d: curve(x1, y1, x2, y2), "stroke-width": width });
    if (colour) made.style.stroke = colour;
  }

  text(x, y, words, className = "") {
    shape(this.words, "text", { x: x + (className.includes("shift") ? (className.includes("end") ? -48 : 48) : 0), y, class: className }, words);
  }
}

function curve(x1, y1, x2, y2) {
  const middle = (y1 + y2) / 2;
  return `M${x1} ${y1}C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}`;
}

function placed(rect, x, y, width, height) {
  Object.assign(rect.style, { x: `${x}px`, y: `${y}px`, width: `${Math.max(0, width)}px`, height: `${Math.max(0, height)}px` });
}
