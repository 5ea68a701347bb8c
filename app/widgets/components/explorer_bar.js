// Above the strip: the layers, Play, and the experts of the chosen layer. Below it: what is worth seeing.

const STEP_MS = 900;
const FEW_LAYERS = 12; // of so many, each has a button

class Bar {
  constructor(explorer) {
    this.explorer = explorer;
    const { trace } = explorer;
    const last = trace.L - 1;
    const step = (by) => () => explorer.choose({ layer: clamped(explorer.layer + by, last) });
    this.layers = trace.L > FEW_LAYERS ? [] : trace.layers.map((_, layer) => this.ofLayer(layer));
    this.where = make("span", "where");
    const ways = [button("step", "‹", `${trace.word} before`, step(-1)), this.where, button("step", "›", `next ${trace.word}`, step(1))];
    this.play = button("step play", "▶ Play", `Play through the ${trace.word}s`, () => (this.timer ? this.stop() : this.start()));
    const steps = make("div", "steps", null, { role: "group", "aria-label": trace.word });
    holding(steps, make("span", "name", trace.word), ...(this.layers.length ? this.layers : ways));
    if (trace.L > 1) steps.append(this.play);
    this.legend = make("div", "legend");
    this.box = holding(make("div", "bar"), steps, this.legend);
  }

  ofLayer(layer) {
    const { trace } = this.explorer;
    return button("step", trace.layers[layer], trace.nameOfLayer(layer), () => this.explorer.choose({ layer }));
  }

  draw() {
    const { layer, trace } = this.explorer;
    this.layers.forEach((made, at) => made.setAttribute("aria-pressed", String(at === layer)));
    this.where.textContent = `${trace.layers[layer]} (${layer + 1} of ${trace.L})`;
    if (this.drawn === layer) return;
    this.drawn = layer;
    const ids = Array.from({ length: trace.counts[layer] }, (_, expert) => expert);
    const own = ids.filter((expert) => !trace.isGrey(layer, expert));
    const others = ids.length - own.length;
    const links = own.map((expert) => this.explorer.link(layer, expert, "chip", expert));
    this.legend.replaceChildren(make("span", "name", `Experts of ${trace.nameOfLayer(layer)}`), ...links);
    if (others) this.legend.append(make("span", "name", `${others} ${others > 1 ? "others" : "other"}`));
  }

  start() {
    const { explorer } = this;
    explorer.show({ layer: 0 });
    this.play.textContent = "❚❚ Pause";
    this.timer = setInterval(() => {
      const goesOn = explorer.root.isConnected && explorer.layer < explorer.trace.L - 1;
      if (goesOn) explorer.show({ layer: explorer.layer + 1 });
      else this.stop();
    }, STEP_MS);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "▶ Play";
  }
}

class Findings {
  constructor(explorer) {
    this.explorer = explorer;
    this.box = make("ul", "findings");
  }

  fill(findings) {
    const key = JSON.stringify(findings);
    if (this.filled === key) return;
    this.filled = key;
    this.box.replaceChildren(...findings.map((finding) => holding(make("li"), this.finding(finding))));
    this.box.hidden = !findings.length;
  }

  finding({ sentence, layer, token, expert }) {
    const { explorer } = this;
    const place = explorer.trace.layers.indexOf(layer);
    return button("finding", sentence, null, () => {
      explorer.pinned = expert === null ? null : { layer: place, expert };
      explorer.choose({ layer: place, token });
    });
  }
}
