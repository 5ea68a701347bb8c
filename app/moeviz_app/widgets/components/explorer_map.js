// Token by layer, every choice at once: a Vega view made from an Altair chart. The choice is some of its signals; it comes
// back as a place on its scales. How the map looks is said in Python. Of a long trace the overview stands here.

const NO_MAP = "The map cannot be drawn: this release of Streamlit does not offer its chart library in a way that is known here.";
const BESIDE = 80; // pixels beside the overview's cells, for axes
const NARROWEST = 120;
let vega = null; // one for all maps of the page

// Vega as Streamlit serves it for its own charts: a chunk of its front end with one export, which loads vega-embed.
async function loadVega(file) {
  const page = document.querySelector('script[type="module"][src*="static/js/"]').src; // under any base path
  const [load] = Object.values(await import(new URL(file, page).href));
  const { embed, expressionInterpreter } = await load();
  if (typeof embed !== "function" || !expressionInterpreter) throw new TypeError("No vega-embed");
  return { embed, expr: expressionInterpreter };
}

// What puts the drawing of a chart into an element, in these colours.
async function embedder(file) {
  const { embed, expr } = await (vega ??= loadVega(file));
  const options = {
    mode: "vega-lite",
    renderer: "canvas",
    ast: true, // expressions are interpreted: no `unsafe-eval`
    expr,
    actions: false, // these three would be put outside the shadow root
    defaultStyle: false,
    tooltip: false,
  };
  return (element, spec, config) => embed(element, spec, { ...options, config });
}

class LayerMap {
  constructor(explorer, { spec, loader, instead, muted }) {
    Object.assign(this, { explorer, own: spec, spec: muted?.spec ?? spec, loader, told: {} });
    this.isOverview = Boolean(spec?.overview);
    this.split = explorer.trace.slots <= 2 || !explorer.trace.data.ordered;
    this.holder = make("div", "vega", null, { "aria-hidden": "true" });
    this.box = make("div", "map", null, { tabindex: 0, role: "application", "aria-roledescription": "map" });
    holding(this.box, this.holder);
    this.toggle = this.makeToggle();
    if (spec) this.listen();
    else this.giveUp(instead ?? NO_MAP);
  }

  listen() {
    const { explorer, box } = this;
    box.onpointerdown = (event) => (this.pressed = event.clientX);
    box.onclick = (event) => {
      if (Math.abs(event.clientX - this.pressed) > 4) return; // the end of a drag
      const at = this.under(event);
      if (at) explorer.choose(at);
      this.setBrush(); // a plain press takes the brush away
    };
    box.onpointermove = (event) => {
      const at = this.under(event);
      if (at) explorer.say(at.layer, at.token);
    };
    box.onpointerleave = () => explorer.say();
    box.onkeydown = (event) => this.onKey(event);
    new ResizeObserver(() => this.draw()).observe(box);
    this.ready = this.embed().catch((error) => {
      vega = null;
      console.warn(error);
      this.giveUp(NO_MAP);
    });
  }

  makeToggle() {
    const { slots, data } = this.explorer.trace;
    if (slots < 2 || !data.ordered || !this.spec || this.isOverview) return "";
    const input = Object.assign(make("input", "", null, { type: "checkbox" }), { checked: this.split });
    input.onchange = () => {
      this.split = input.checked;
      this.draw();
    };
    const choices = slots === 2 ? "2nd choice" : `choices 2–${slots}`;
    const how = this.explorer.trace.weights ? "by weight" : "evenly, since weights are not recorded";
    return holding(make("label", "toggle", null, { title: `A cell is split ${how}` }), input, `${choices} too`);
  }

  giveUp(sentence) {
    this.view = null;
    this.box.replaceChildren(make("p", "instead", sentence));
    for (const name of ["tabindex", "role", "aria-roledescription", "aria-label"]) this.box.removeAttribute(name);
    this.box.onkeydown = this.box.onclick = this.box.onpointermove = null;
    if (this.toggle) this.toggle.remove();
  }

  async embed() {
    const { chart } = this.spec;
    const embed = await embedder(this.loader);
    const data = this.isOverview ? {} : { datasets: { ...chart.datasets, cells: this.rows(), moved: this.moved() } };
    const made = await embed(this.holder, { ...chart, ...data, width: this.inner() }, this.config());
    if (!this.explorer.isShown()) return made.finalize(); // another trace came meanwhile
    this.view = made.view;
    this.finalize = made.finalize;
    if (this.isOverview) this.view.addSignalListener(this.spec.overview, (_, brush) => this.brushed(brush.start));
    this.setBrush();
    await this.draw();
    this.box.dataset.drawn = "true";
  }

  end() {
    this.finalize?.();
    this.view = null;
  }

  // The page's colours, since the chart says none.
  config() {
    const style = getComputedStyle(this.explorer.root);
    const words = { labelColor: style.color, titleColor: style.color };
    return { background: "transparent", font: style.fontFamily, axis: words, legend: words, view: { stroke: null } };
  }

  // Of all layers; where the cells are an image, of the one that is pointed at.
  rows() {
    const { trace, hot } = this.explorer;
    const [first, last] = this.spec.images ? (hot ? [hot.layer, hot.layer + 1] : [0, 0]) : [0, trace.L];
    this.rowsOf = this.wanted();
    const rows = [];
    for (let layer = first; layer < last; layer++)
      for (let token = 0; token < trace.T; token++) {
        if (!trace.isRecorded(layer, token)) rows.push({ layer, token, slot: 0, expert: NOT_RECORDED });
        trace.chosen(layer, token).forEach(({ expert, weight }, slot) => {
          rows.push(weight === null ? { layer, token, slot, expert } : { layer, token, slot, expert, weight });
        });
      }
    return rows;
  }

  // First choices that are others than without the mutes.
  moved() {
    const { trace } = this.explorer;
    const rows = [];
    for (let layer = 0; layer < trace.L; layer++)
      for (let token = 0; token < trace.T; token++) if (trace.hasMoved(layer, token)) rows.push({ layer, token });
    return rows;
  }

  // Another routing of the same tokens. Where the cells are an image, or an overview, they come with it.
  async refill(muted) {
    if (!this.spec) return;
    const spec = muted?.spec ?? this.own;
    if (spec !== this.spec) {
      this.spec = spec;
      this.finalize?.();
      Object.assign(this, { view: null, told: {}, ready: this.embed() });
      return this.ready;
    }
    await this.ready;
    if (!this.view || this.isOverview) return;
    this.view.data("cells", this.rows()).data("moved", this.moved());
    await this.draw();
  }

  wanted() {
    return this.spec.images ? (this.explorer.hot?.layer ?? null) : "all";
  }

  inner() {
    const { left, right } = this.spec.chart.padding ?? {};
    return Math.max(NARROWEST, this.box.clientWidth - (this.isOverview ? BESIDE : left + right));
  }

  under(event) {
    if (!this.view) return null;
    const { explorer, view } = this;
    const box = this.holder.querySelector("canvas").getBoundingClientRect();
    const [left, top] = view.origin();
    const padding = view.padding();
    const token = Math.round(view.scale("x").invert(event.clientX - box.left - left - padding.left));
    const y = view.scale("y");
    const down = event.clientY - box.top - top - padding.top;
    const layer = Math.floor(y.invert ? y.invert(down) : down / y.step());
    const isLayer = layer >= 0 && layer < explorer.trace.L;
    return { layer: isLayer ? layer : explorer.layer, token: token < 0 ? explorer.token : Math.min(token, explorer.trace.T - 1) };
  }

  onKey(event) {
    const { layer, token, trace } = this.explorer;
    const to = {
      ArrowRight: { token: token + 1 },
      ArrowLeft: { token: token - 1 },
      ArrowDown: { layer: layer + 1 },
      ArrowUp: { layer: layer - 1 },
      Home: { token: 0 },
      End: { token: trace.T - 1 },
    }[event.key];
    if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
    const wanted = { layer, token, ...to };
    this.explorer.choose({ layer: clamped(wanted.layer, trace.L - 1), token: clamped(wanted.token, trace.T - 1) });
    event.preventDefault();
    event.stopPropagation(); // Streamlit has hotkeys of its own
  }

  signals() {
    const { explorer, split } = this;
    const { layer, token, hot, strip } = explorer;
    const style = getComputedStyle(explorer.root);
    if (this.isOverview) return { token, from: strip.window[0] - 0.5, to: strip.window[1] - 0.5, ink: style.color };
    const paper = style.getPropertyValue("--st-background-color").trim() || "#ffffff";
    return { token, layer, ink: style.color, paper, split: split ? 1 : 0, hot: hot ? [hot.layer, hot.expert] : [-1, -1] };
  }

  // Resolves when the view is drawn.
  draw() {
    if (!this.view) return null;
    for (const [name, value] of Object.entries(this.signals())) {
      const key = JSON.stringify(value); // the same array made anew would be another value, and all marks drawn anew
      if (this.told[name] !== key) this.view.signal(name, value);
      this.told[name] = key;
    }
    if (!this.isOverview && this.rowsOf !== this.wanted()) this.view.data("cells", this.rows());
    const { layer, token, trace } = this.explorer;
    this.box.setAttribute("aria-label", `${trace.Item}s by ${trace.word}s; arrow keys move. Chosen: ${trace.sentence(layer, token)}`);
    return (this.drawn = this.view.width(this.inner()).runAsync());
  }

  // Vega tells it in the middle of its own work, and nothing may be drawn before that is done.
  brushed(range) {
    if (range && range[0] !== range[1] && !this.isSetting) queueMicrotask(() => this.onBrush(range));
  }

  // The strip shows what is brushed.
  onBrush(range) {
    const { explorer } = this;
    const from = clamped(Math.ceil(range[0]), explorer.trace.T - 1);
    const to = Math.max(from + 1, Math.min(Math.floor(range[1]) + 1, from + MOST_PIECES, explorer.trace.T));
    explorer.strip.turnTo(from, to);
    if (explorer.token < from || explorer.token >= to) explorer.choose({ token: from });
    else explorer.draw();
  }

  // A selection is set through the signal of its pixels; its store follows.
  async setBrush() {
    if (!this.view || !this.isOverview) return;
    const x = this.view.scale("x");
    const [from, to] = this.explorer.strip.window;
    this.isSetting = true;
    await this.view.signal(`${this.spec.overview}_x`, [x(from - 0.5), x(to - 0.5)]).runAsync();
    this.isSetting = false;
  }
}
