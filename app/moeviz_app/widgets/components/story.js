// The story: a rail of years, what can be pressed of each system, its picture and its words. All that is shown was
// recorded; nothing is computed here but sums of it.

class Story {
  constructor(root, data, send) {
    rich.sources = data.sources;
    Object.assign(this, { root, data, send, step: 0, half: 0, branch: -1, at: {} });
    for (const half of data.steps.flatMap((step) => step.halves)) {
      half.chosen = numbers(half.experts, Int8Array);
      half.weighs = numbers(half.weights, Float32Array);
    }
    for (const [name, inputs] of Object.entries(data.inputs)) this.at[name] = inputs.first;
    this.picture = new Picture(data.colours);
    this.parts = Object.fromEntries(["title", "halves", "place", "caption", "words", "panel", "top", "meters"].map((name) => [name, make("div", name)]));
    this.said = make("p", "said", null, { role: "status" });
    this.back = button("", "‹ before", "the step before", () => this.go(this.step - 1));
    this.next = button("main", "", null, () => this.go(this.step + 1));
    this.parts.top.append(this.said, this.back, this.next);
    this.parts.panel.append(this.parts.top, this.picture.svg, this.parts.meters);
    const { title, halves, place, caption, words, panel } = this.parts;
    root.replaceChildren(this.rail(), holding(make("div", "stage"), title, halves, place, caption, words, panel));
    root.onkeydown = (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by || event.target.tagName === "INPUT") return;
      event.preventDefault();
      event.stopPropagation();
      this.go(this.step + by);
    };
    this.show();
    new ResizeObserver(() => this.draw()).observe(panel);
  }

  rail() {
    const rail = make("nav", "rail", null, { "aria-label": "Steps of the story" });
    this.stops = this.data.steps.map((step, at) => {
      const stop = button("stop", null, null, () => this.go(at));
      return holding(stop, make("b", "", step.year), make("span", "", step.title));
    });
    this.besides = this.data.branches.map((branch, at) => button("beside", branch.short, `${branch.year}, beside the way: ${branch.title}`, () => this.turn(at)));
    return holding(rail, ...this.stops, holding(make("div", "branches"), ...this.besides));
  }

  go(step) {
    if (step < 0 || step >= this.data.steps.length) return;
    Object.assign(this, { step, half: 0, branch: -1 });
    const held = this.root.contains(this.root.getRootNode().activeElement);
    this.show();
    const now = this.root.getRootNode().activeElement;
    if (held && (!now || !this.root.contains(now) || now.disabled)) this.stops[step].focus();
  }

  turn(branch) {
    this.branch = this.branch === branch ? -1 : branch;
    this.mark();
  }

  pick(at) {
    this.at[this.shown.inputs] = at;
    this.draw();
  }

  get shown() {
    return this.data.steps[this.step].halves[this.half];
  }

  // All of a step, or of a half of it.
  show() {
    const { title, halves, place, caption, meters } = this.parts;
    const step = this.data.steps[this.step];
    const inputs = this.data.inputs[this.shown.inputs];
    title.replaceChildren(make("h3", "", this.step ? `${step.year}: ${step.title}` : step.title));
    if (halves.of !== step) {
      halves.of = step;
      const named = step.halves.length > 1 ? step.halves.map((half) => button("kind", half.name, null, null)) : [];
      this.choice = new Choice("Which of them", named, (at) => {
        this.half = at;
        this.show();
      });
      halves.replaceChildren(...(named.length ? [this.choice.box] : []));
    }
    this.choice.show(this.half);
    this.chooser = new Inputs(this, this.shown, inputs);
    place.replaceChildren(this.chooser.box);
    caption.textContent = this.shown.caption;
    meters.replaceChildren(...this.shown.meters.map(([value, what]) => holding(make("span", ""), make("b", "", value), ` ${what}`)));
    this.mark();
    this.draw();
  }

  // Where we are, and the words.
  mark() {
    const { steps, branches } = this.data;
    const beside = branches[this.branch];
    this.stops.forEach((stop, at) => {
      stop.classList.toggle("past", at < this.step);
      if (at === this.step) stop.setAttribute("aria-current", "step");
      else stop.removeAttribute("aria-current");
    });
    this.besides.forEach((stop, at) => stop.setAttribute("aria-pressed", String(at === this.branch)));
    this.back.disabled = this.step === 0;
    const next = steps[this.step + 1];
    this.next.disabled = !next;
    this.next.textContent = next ? `${next.year}: what was added ›` : "the last step";
    const rows = [
      [steps[this.step].before, "Before", ""],
      [this.shown.new, "New", "fresh"],
      [this.shown.left, "Left over", ""],
    ];
    if (beside) rows.unshift([`**${beside.year}: ${beside.title}.** ${beside.says}`, "Beside", "aside"]);
    const list = make("dl");
    for (const [words, name, className] of rows.filter(([words]) => words)) list.append(make("dt", className, name), rich(make("dd", className), words));
    const page = (beside ?? this.shown).page;
    this.parts.words.replaceChildren(list, button("more", `More: ${page} ›`, null, () => this.send("page", page)));
  }

  draw() {
    const half = this.shown;
    const inputs = this.data.inputs[half.inputs];
    const at = this.at[half.inputs];
    const width = this.parts.panel.clientWidth - 24;
    if (width <= 0) return;
    const met = this.met(half, inputs, at);
    this.chooser.show(at);
    this.picture.draw(half, inputs, at, met, width, width < 500 ? 350 : 362);
    this.said.textContent = sentence(half, inputs, at, met);
    this.picture.svg.setAttribute("aria-label", this.said.textContent);
  }

  // Of each layer: which experts the input has, with which weights, and what else is drawn of them.
  met(half, inputs, at) {
    const several = inputs.names.length;
    return half.counts.map((count, row) => {
      const [on, weights] = [Array(count).fill(false), Array(count).fill(0)];
      for (let slot = 0; slot < half.slots; slot++) {
        const place = (row * several + at) * half.slots + slot;
        const expert = half.chosen[place];
        if (expert >= 0) [on[expert], weights[expert]] = [true, half.weighs[place]];
      }
      const layer = { on, weights, says: half.drawn.says?.[at], dropped: -1 };
      if (half.drawn.capacity) {
        layer.before = Array(count).fill(0);
        for (let word = 0; word < at; word++) if (half.chosen[word] >= 0) layer.before[half.chosen[word]] += 1;
        if (!on.includes(true)) layer.dropped = half.drawn.wanted[at];
      }
      return layer;
    });
  }
}

// What the picture shows, in words.
function sentence(half, inputs, at, met) {
  const name = capitalised(inputs.names[at]);
  const layer = met.at(-1);
  const experts = (of) => of.on.flatMap((on, e) => (on ? [e] : [])).sort((a, b) => of.weights[b] - of.weights[a]);
  const [best] = experts(layer);
  if (half.drawn.capacity) {
    const word = `Word ${(at + 1).toLocaleString("en")} of ${inputs.names.length.toLocaleString("en")}, “${inputs.drawn.words[at]}”,`;
    return layer.dropped < 0 ? `${word} goes to expert ${best}.` : `${word} wants expert ${layer.dropped}, which is full: it is dropped.`;
  }
  if (half.counts[0] === 1) return `${name}: is it [i] or [ɑ] (1), or [ɪ] or [ʌ] (0)?`;
  if (half.drawn.tree) return `${name}: all ${layer.on.length} are computed; expert ${best} counts ${percent(layer.weights[best])}.`;
  if (met.length > 2) return `${name}: ${half.slots} of ${layer.on.length} experts are computed in each of ${met.length} blocks.`;
  if (met.length > 1) return `${name}: ${met.map((of, row) => `in layer ${half.layers[row]} expert ${experts(of)[0]} counts ${percent(of.weights[experts(of)[0]])}`).join(", ")}.`;
  if (half.drawn.answers) return `${name}: ${experts(layer).length} of ${layer.on.length} blocks are on, ${listed(experts(layer))}.`;
  if (half.slots === layer.on.length) return `${name}: all ${layer.on.length} are computed; expert ${best} counts ${percent(layer.weights[best])}.`;
  const weighed = listed(experts(layer).slice(0, 2).map((e) => `${e} (${layer.weights[e].toFixed(2)})`));
  const most = half.slots > 2 ? `above all ${weighed}` : weighed;
  return `${name}: ${half.slots} of ${layer.on.length} are computed, ${most}${half.drawn.shared ? "; and the shared one" : ""}.`;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".story");
  if (root.story) root.story.send = setTriggerValue;
  else root.story = new Story(root, data, setTriggerValue);
}
