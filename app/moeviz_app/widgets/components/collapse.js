// Eight experts live or die while they train, in this page: a visitor sets what keeps them alive.
// The page's policy allows no worker made of text, so it trains in slices between which the browser draws and listens.

const SLICE = 12; // ms
const RECORDED = 3; // steps from one column of the stream, and one drawing, to the next
const RECORDED_STILL = 60; // drawings, where motion is reduced
const RECENT = 4; // records that a plant is the mean of: one batch alone flickers
const MOST_RUNS = 6;
const FIGURES = ["dead", "busiest", "dropped", "remembered"];
const reduced = matchMedia("(prefers-reduced-motion: reduce)");
const newSeed = () => Math.floor(Math.random() * 2 ** 31);
const runs = []; // of this visitor, the last first; they stay while the tab is open

class Panel {
  constructor(root, { sizes, knobs, presets, colours, note, ahead }) {
    Object.assign(this, { root, sizes, knobs, presets, ahead });
    this.settings = { ...Object.values(presets)[0] };
    this.garden = new Garden(colours, Math.ceil(sizes.steps / RECORDED));
    this.build(note);
    this.lookAtStart();
  }

  build(note) {
    this.presetButtons = Object.entries(this.presets).map(([name, settings]) => {
      const press = () => {
        this.settings = { ...settings };
        this.drawSettings();
        this.lookAtStart();
      };
      return button("preset", name, null, press);
    });
    const presets = holding(make("div", "presets", null, { role: "group", "aria-label": "What keeps them alive" }), ...this.presetButtons);
    this.sliders = this.knobs.map((knob) => this.slider(knob));
    this.guesses = Array.from({ length: this.sizes.experts }, (_, dead) => button("guess", `${dead}`, `${dead} will die`, () => this.say(dead)));
    const guesses = holding(make("div", "presets guesses", null, { role: "group", "aria-label": "Your guess" }), ...this.guesses);
    const ask = make("p", "ask", `How many of ${this.sizes.experts} will die? Your guess first:`);
    this.train = button("train", "", null, () => (this.run ? this.finish() : this.start()));
    this.streamSays = make("p", "small");
    this.figures = FIGURES.map((name) => ({ name, value: make("b") }));
    const figures = this.figures.map(({ name, value }) => holding(make("div", "figure"), value, make("span", "", name === "dead" ? `dead of ${this.sizes.experts}` : name)));
    this.said = make("p", "said", "", { role: "status" });
    this.table = make("table");
    const sliders = holding(make("div", "sliders"), ...this.sliders.map(({ box }) => box));
    const garden = holding(make("div", "garden"), this.garden.svg.parentElement, this.garden.stream, this.streamSays);
    const knobs = holding(make("div", "knobs"), presets, sliders, ask, guesses, this.train);
    const score = holding(make("div", "score"), holding(make("div", "figures"), ...figures), this.said, this.table);
    this.root.replaceChildren(knobs, garden, score, make("p", "note small", note));
    this.drawSettings();
    this.drawRuns();
  }

  slider({ key, title, hint, levels }) {
    const output = make("b", "", null, { "aria-hidden": "true" }); // the slider says it
    const input = make("input", "", null, { type: "range", min: 0, max: levels.length - 1, step: 1, "aria-label": `${title}: ${hint}`, title: hint });
    input.oninput = () => {
      this.settings[key] = levels[input.value];
      this.drawSettings();
      this.lookAtStart();
    };
    const box = holding(make("label", "knob"), make("span", "", title), output, input);
    return { box, input, output };
  }

  drawSettings() {
    this.knobs.forEach((knob, i) => {
      const { input, output } = this.sliders[i];
      input.value = knob.levels.indexOf(this.settings[knob.key]);
      output.textContent = valueOf(knob, this.settings);
      input.setAttribute("aria-valuetext", output.textContent);
    });
    Object.values(this.presets).forEach((preset, i) => {
      const isSet = Object.keys(preset).every((key) => preset[key] === this.settings[key]);
      this.presetButtons[i].setAttribute("aria-pressed", isSet);
    });
  }

  // ---- training ----

  // A network that has not been trained, and what it does with all facts.
  lookAtStart() {
    this.end();
    this.training = new Training(this.sizes, { ...this.settings }, newSeed());
    this.records = [];
    this.garden.clear();
    this.result = this.training.evaluate();
    this.born = this.result.load.map(Boolean);
    const never = this.born.filter((alive) => !alive).length;
    this.said.textContent = `Not trained yet: ${never ? `${never} have no fact from the start and are counted apart` : `all ${this.born.length} are alive`}.`;
    this.say(null);
    this.draw();
  }

  // The visitor's guess; training waits for it.
  say(dead) {
    if (this.run || (dead !== null && this.training.step)) return;
    this.guess = dead;
    this.guesses.forEach((one, at) => one.setAttribute("aria-pressed", at === dead));
    this.drawTrain();
  }

  start() {
    if (this.training.step) return this.lookAtStart();
    this.result = null;
    this.run = {}; // slices of the run before are none of this one
    this.began = performance.now();
    this.said.textContent = "Training …";
    this.drawTrain();
    this.goOn(this.run);
  }

  goOn(run) {
    const { port1, port2 } = new MessageChannel(); // no wait, unlike a timer's
    port1.onmessage = () => this.slice(run);
    port2.postMessage(null);
  }

  slice(run) {
    if (run !== this.run) return;
    if (!this.root.isConnected) return this.finish(); // its row stands in the table when the visitor comes back
    const until = performance.now() + SLICE;
    while (this.training.step < this.sizes.steps && performance.now() < until) {
      this.training.learn();
      if (this.training.step % RECORDED === 0) this.record();
    }
    if (this.training.step < this.sizes.steps) this.goOn(run);
    else this.finish();
  }

  record() {
    const { load, served, dropped, right, step } = this.training;
    this.records.push({ load: [...load], served: [...served], dropped, remembered: right });
    if (reduced.matches && step % RECORDED_STILL) return;
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  // Nothing of this run is drawn any more.
  end() {
    this.run = null;
    cancelAnimationFrame(this.frame);
  }

  // All facts are asked once, also where somebody has stopped it.
  finish() {
    this.end();
    const { training, sizes } = this;
    const seconds = ((performance.now() - this.began) / 1000).toFixed(1);
    const result = (this.result = training.evaluate());
    const stopped = training.step < sizes.steps ? `, stopped at step ${training.step}` : "";
    const figures = figuresOf(result, training.settings, this.born);
    runs.unshift([cureOf(this.knobs, training.settings) + stopped, this.guess, ...figures]);
    runs.splice(MOST_RUNS);
    this.draw();
    this.drawRuns();
    const [dead, busiest, , remembered] = figures;
    const verdict = `You said ${this.guess}: ${dead === "0" ? "none" : dead} of ${sizes.experts} died.`;
    const ahead = this.ahead.find(({ settings }) => Object.keys(settings).every((key) => settings[key] === training.settings[key]));
    const others = ahead && !stopped ? ` Of ten other starts: ${ahead.dead} dead, ${ahead.remembered}% remembered. ${ahead.says}` : "";
    this.said.textContent = `${verdict} The busiest gets ${busiest} of the facts; ${remembered} are remembered (${training.step} steps in ${seconds} s).${others}`;
  }

  // ---- drawing ----

  // What all facts show, or the last batches while it trains.
  seen() {
    if (this.result) return this.result;
    const last = this.records.slice(-RECENT);
    const mean = (name) => last[0][name].map((_, expert) => last.reduce((sum, record) => sum + record[name][expert] / last.length, 0));
    return { ...last.at(-1), load: mean("load"), served: mean("served") };
  }

  draw() {
    const seen = this.seen();
    const { settings, step } = this.training;
    while (this.garden.column < this.records.length) this.garden.add(this.records[this.garden.column].load);
    const room = settings.capacity ? settings.capacity / seen.load.length : Infinity;
    this.garden.draw({ ...seen, room, isTrained: step > 0 });
    const said = figuresOf(seen, settings, this.born);
    this.figures.forEach(({ value }, i) => (value.textContent = step ? said[i] : "–"));
    this.streamSays.textContent = step ? `Who got the facts of each batch, step 1 to ${step}` : "Who gets the facts of each batch";
    this.drawTrain();
  }

  drawTrain() {
    const waits = !this.run && !this.training.step && this.guess === null;
    this.train.textContent = this.run ? "■ Stop" : this.training.step ? "Another start" : waits ? "Guess first, then train" : `▸ Train, ${this.sizes.steps} steps`;
    this.train.disabled = waits;
  }

  drawRuns() {
    const heads = ["kept alive by", "guess", ...FIGURES].map((text) => make("th", "", text, { scope: "col" }));
    const rows = runs.map(([cure, ...figures]) => {
      const cells = figures.map((text) => make("td", "", text));
      return holding(make("tr"), make("th", "", cure, { scope: "row" }), ...cells);
    });
    const head = holding(make("thead"), holding(make("tr"), ...heads));
    this.table.replaceChildren(make("caption", "", "Your runs"), head, holding(make("tbody"), ...rows));
    this.table.hidden = !runs.length;
  }
}

function valueOf({ key, at_zero: atZero, unit }, settings) {
  return settings[key] ? `${settings[key]}${unit}` : atZero;
}

// In words, for a row of the table. The lean is no cure: it is named where it is not the one that a page begins with.
function cureOf(knobs, settings) {
  const cures = knobs.filter(({ key }) => key !== "lean" && settings[key]).map((knob) => `${knob.short} ${settings[knob.key]}`);
  const lean = knobs.find(({ key }) => key === "lean");
  const said = cures.join(", ") || "nothing";
  return settings.lean === Math.max(...lean.levels) ? said : `${said}; lean ${valueOf(lean, settings)}`;
}

// In the order of FIGURES. Dead is who had facts before training: who never had one is counted apart.
function figuresOf({ load, dropped, remembered }, { capacity }, born) {
  const dead = load.filter((share, expert) => !share && born[expert]).length;
  return [String(dead), percent(Math.max(...load)), capacity ? percent(dropped) : "–", percent(remembered)];
}

// A rerun brings nothing new: what is on screen stays.
export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".collapse");
  root.view ??= new Panel(root, data);
}
