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
  constructor(root, { sizes, knobs, presets, colours, note }) {
    Object.assign(this, { root, sizes, knobs, presets });
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
        this.start();
      };
      return button("preset", name, null, press);
    });
    const presets = holding(make("div", "presets", null, { role: "group", "aria-label": "Ready settings: each trains" }), ...this.presetButtons);
    this.sliders = this.knobs.map((knob) => this.slider(knob));
    this.train = button("train", "", null, () => (this.run ? this.finish() : this.start()));
    this.streamSays = make("p", "small");
    this.figures = FIGURES.map((name) => ({ name, value: make("b") }));
    const figures = this.figures.map(({ name, value }) => holding(make("div", "figure"), value, make("span", "", name === "dead" ? `dead of ${this.sizes.experts}` : name)));
    this.said = make("p", "said", "", { role: "status" });
    this.table = make("table");
    const sliders = holding(make("div", "sliders"), ...this.sliders.map(({ box }) => box));
    const garden = holding(make("div", "garden"), this.garden.svg.parentElement, this.garden.stream, this.streamSays);
    const knobs = holding(make("div", "knobs"), presets, sliders, this.train);
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

  begin() {
    this.training = new Training(this.sizes, { ...this.settings }, newSeed());
    this.records = [];
    this.result = null;
    this.garden.clear();
  }

  // What an untrained network does, before anybody presses anything.
  lookAtStart() {
    this.begin();
    this.result = this.training.evaluate();
    this.said.textContent = "Not trained yet. The plants show what the lean alone does to an untrained router.";
    this.draw();
  }

  start() {
    this.end();
    this.begin();
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
    if (!this.root.isConnected) return this.end();
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
    runs.unshift([cureOf(this.knobs, training.settings) + stopped, ...figuresOf(result, training.settings)]);
    runs.splice(MOST_RUNS);
    this.draw();
    this.drawRuns();
    const [dead, busiest, , remembered] = figuresOf(result, training.settings);
    this.said.textContent = `${training.step} steps in ${seconds} s. Dead experts: ${dead} of ${sizes.experts}; the busiest gets ${busiest} of the facts; ${remembered} are remembered.`;
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
    const said = figuresOf(seen, settings);
    this.figures.forEach(({ value }, i) => (value.textContent = step ? said[i] : "–"));
    this.streamSays.textContent = step ? `Who got the facts of each batch, step 1 to ${step}` : "Who gets the facts of each batch";
    this.drawTrain();
  }

  drawTrain() {
    this.train.textContent = this.run ? "■ Stop" : this.training.step ? "▸ Train again" : `▸ Train, ${this.sizes.steps} steps`;
  }

  drawRuns() {
    const heads = ["kept alive by", ...FIGURES].map((text) => make("th", "", text, { scope: "col" }));
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

// In the order of FIGURES.
function figuresOf({ load, dropped, remembered }, { capacity }) {
  const dead = load.filter((share) => !share).length;
  return [String(dead), percent(Math.max(...load)), capacity ? percent(dropped) : "–", percent(remembered)];
}

// A rerun brings nothing new: what is on screen stays.
export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".collapse");
  root.view ??= new Panel(root, data);
}
