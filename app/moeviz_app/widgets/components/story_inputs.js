// What can be chosen from, drawn: vowels in a plane, digits as pixels, words. Each gives back its box, and how to show
// that one of them is chosen.

const PLANE = { width: 460, height: 216, low: [200, 700], high: [1250, 3700] };
const ERRORS = { width: 460, height: 132, left: 34, bottom: 16, most: 0.28, last: 1500 };
const AROUND = 12; // words of a queue beside the one that has come

class Inputs {
  constructor(story, half, inputs) {
    Object.assign(this, { story, half, inputs, box: make("div", "inputs"), colours: story.data.colours });
    this[inputs.kind]();
  }

  pick(at) {
    this.story.pick(at);
  }

  // The colour of the expert that counts most in the last layer; null where there is none.
  colour(at) {
    const { half } = this;
    const rows = half.layers.length - 1;
    const expert = half.drawn.capacity ? half.drawn.wanted[at] : half.chosen[(rows * this.inputs.names.length + at) * half.slots];
    return expert < 0 ? null : this.colours[expert % this.colours.length];
  }

  slider(name, text) {
    const made = make("input", "", null, { type: "range", min: 0, max: this.inputs.names.length - 1, "aria-label": name });
    made.oninput = () => this.pick(+made.value);
    this.slide = (at) => {
      made.value = at;
      made.setAttribute("aria-valuetext", text(at));
    };
    this.box.append(made);
  }

  plane() {
    const { drawn, names } = this.inputs;
    const { width, height, low, high } = PLANE;
    const across = (hertz) => ((hertz - low[0]) / (high[0] - low[0])) * width;
    const down = (hertz) => height - ((hertz - low[1]) / (high[1] - low[1])) * height;
    const svg = document.createElementNS(SVG, "svg");
    filled(svg, null, { viewBox: `0 0 ${width} ${height}`, class: "plane", role: "img", "aria-label": `${names.length} vowels by their two lowest resonances` });
    const alone = this.half.counts[0] === 1;
    drawn.at.forEach(([x, y], at) => {
      const mark = shape(svg, "circle", { cx: across(x), cy: down(y), r: 3.2, class: drawn.wanted[at] ? "one" : "" });
      if (!alone) mark.style.color = this.colour(at);
    });
    for (const [a, b, c] of this.half.drawn.lines ?? []) {
      const at = (hertz) => down((-(a * hertz) / 1000 - c) / b * 1000);
      shape(svg, "path", { class: "edge", d: `M0 ${at(low[0])}L${width} ${at(high[0])}` });
    }
    for (const group of new Set(drawn.groups)) {
      const of = drawn.at.filter((_, at) => drawn.groups[at] === group);
      const mean = (axis) => of.reduce((sum, one) => sum + one[axis], 0) / of.length;
      shape(svg, "text", { x: across(mean(0)), y: down(mean(1)) + (drawn.wanted[drawn.groups.indexOf(group)] ? 30 : -24) }, `[${group}] ${drawn.wanted[drawn.groups.indexOf(group)]}`);
    }
    const ring = shape(svg, "circle", { r: 8, class: "ring" });
    svg.onclick = (event) => {
      const { left, top, width: wide } = svg.getBoundingClientRect();
      const scale = width / wide;
      const far = drawn.at.map(([x, y]) => (across(x) - (event.clientX - left) * scale) ** 2 + (down(y) - (event.clientY - top) * scale) ** 2);
      this.pick(far.indexOf(Math.min(...far)));
    };
    this.box.append(svg);
    if (this.half.drawn.curves) this.box.append(this.errors(this.half.drawn.curves));
    this.slider("Vowel", (at) => names[at]);
    this.show = (at) => {
      filled(ring, null, { cx: across(drawn.at[at][0]), cy: down(drawn.at[at][1]) });
      this.slide(at);
    };
  }

  // The error of each start by pass over the vowels, until it is at the goal.
  errors({ every, goal, mixture, network }) {
    const { width, height, left, bottom, most, last } = ERRORS;
    const across = (epoch) => left + (epoch / last) * (width - left);
    const down = (error) => (1 - (error - 0.06) / (most - 0.06)) * (height - bottom);
    const svg = document.createElementNS(SVG, "svg");
    const count = (runs, name) => (runs.length ? `${runs.length} starts of ${name} end after ${runs.map((run) => (run.length - 1) * every).join(", ")} passes` : "");
    filled(svg, null, { viewBox: `0 0 ${width} ${height}`, class: "plane errors", role: "img", "aria-label": [count(network, "one network"), count(mixture, "four experts")].filter(Boolean).join("; ") });
    shape(svg, "path", { class: "edge", d: `M${left} ${down(goal)}H${width}` });
    for (const [error, words] of [[0.25, "0.25"], [goal, `${goal}`]]) shape(svg, "text", { x: left - 4, y: down(error) + 4, class: "end" }, words);
    for (const epoch of [0, 500, 1000, 1500]) shape(svg, "text", { x: Math.min(across(epoch), width - 8), y: height - 6, class: epoch ? "end" : "start" }, epoch ? `${epoch.toLocaleString("en")} passes` : "0");
    for (const [name, runs] of [["network", network], ["mixture", mixture]]) {
      for (const run of runs) {
        const points = run.map((error, i) => `${across(i * every).toFixed(1)} ${down(Math.min(error, most)).toFixed(1)}`);
        shape(svg, "path", { class: `run ${name}`, d: `M${points.join("L")}` });
      }
    }
    shape(svg, "text", { x: across(900), y: down(0.2), class: "start network" }, "one network");
    if (mixture.length) shape(svg, "text", { x: left + 6, y: down(0.13), class: "start mixture" }, "4 experts, gate");
    return svg;
  }

  pixels() {
    const { drawn } = this.inputs;
    const { columns, rows } = drawn;
    const large = make("canvas", "large", null, { role: "img" });
    let chosen = 0;
    const across = new Choice("Digit", columns.map((name, at) => holding(button("thumb", null, `digit ${name}`, null), this.image(make("canvas"), rows.length ? 20 + at : at, false))), (at) => this.pick(chosen - (chosen % 10) + at));
    const down = new Choice("Place", rows.map((name) => button("thumb", name, `moved ${name}`, null)), (at) => this.pick(10 * at + (chosen % 10)));
    const parts = rows.length ? [across.box, down.box] : [across.box];
    this.box.append(holding(make("div", "digits"), large, holding(make("div"), ...parts)));
    this.show = (at) => {
      chosen = at;
      this.image(large, at, true);
      large.setAttribute("aria-label", this.inputs.names[at]);
      across.show(at % 10);
      down.show(Math.floor(at / 10));
    };
  }

  // White on black, as MNIST has them.
  image(canvas, at, moved) {
    const { pixels, moves } = this.inputs.drawn;
    const side = moves.length ? 36 : 28;
    const [right, below] = moved && moves.length ? moves[at] : [0, 0];
    const values = numbers(pixels[at], Uint8Array);
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    const image = context.createImageData(side, side);
    image.data.fill(255);
    const margin = (side - 28) / 2;
    for (let i = 0; i < side * side; i++) {
      const [x, y] = [(i % side) - margin - right, Math.floor(i / side) - margin - below];
      const value = x >= 0 && x < 28 && y >= 0 && y < 28 ? values[28 * y + x] : 0;
      image.data.set([value, value, value], 4 * i);
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  words() {
    this.strip(this.inputs.drawn.words.map((_, at) => at));
  }

  texts() {
    const { groups, starts } = this.inputs.drawn;
    const kinds = [...new Set(groups)];
    const chooser = new Choice("Text", kinds.map((kind) => button("kind", kind, null, null)), (at) => this.pick(starts[at]));
    const place = make("div");
    this.box.append(chooser.box, place);
    let open = null;
    this.show = (at) => {
      if (open !== groups[at]) {
        open = groups[at];
        chooser.show(kinds.indexOf(open));
        const shown = this.show;
        this.strip(groups.flatMap((kind, i) => (kind === open ? [i] : [])), place);
        this.mark = this.show;
        this.show = shown;
      }
      this.mark(at);
    };
  }

  strip(shown, place = this.box) {
    const { words } = this.inputs.drawn;
    const choice = new Choice("Token", shown.map((at) => word(words[at], this.colour(at))), (at) => this.pick(shown[at]));
    place.replaceChildren(choice.box);
    this.show = (at) => choice.show(shown.indexOf(at));
  }

  queue() {
    const { words } = this.inputs.drawn;
    const place = make("div", "queue");
    this.box.append(place);
    this.slider("Words that have come", (at) => `word ${at + 1} of ${words.length}`);
    const count = make("p", "count");
    this.box.append(count);
    const lost = (at) => this.half.chosen[at] < 0;
    this.show = (at) => {
      const start = clamped(at - AROUND, words.length - 2 * AROUND);
      const near = Array.from({ length: 2 * AROUND }, (_, i) => start + i);
      const held = place.contains(place.getRootNode().activeElement);
      const choice = new Choice("Word", near.map((i) => word(words[i], this.colour(i))), (i) => this.pick(near[i]));
      choice.buttons.forEach((one, i) => {
        one.classList.toggle("lost", lost(near[i]));
        one.classList.toggle("later", near[i] > at);
      });
      place.replaceChildren(choice.box);
      choice.show(at - start);
      if (held) choice.buttons[at - start].focus();
      this.slide(at);
      const dropped = words.slice(0, at + 1).filter((_, i) => lost(i)).length;
      count.textContent = `${(at + 1).toLocaleString("en")} words have come, ${dropped} of them dropped.`;
    };
  }
}
