// Every layer by every token: a Vega view made from an Altair chart, whose cells are one image that is made here.

const NARROW = 700; // pixels of a page on which kinds of text stand upright
const UPRIGHT = 104; // pixels under the cells for them; see moeviz/charts/atlas.py
const FEW_LAYERS = 12;
const EVERY = 8; // of more layers, which have their name
const NO_ATLAS = "The map cannot be drawn: this release of Streamlit does not offer its chart library in a way that is known here.";
const NO_FIRST = "There is no map: this trace does not say which of a token's experts is its first choice.";

class AtlasMap {
  constructor(view) {
    Object.assign(this, { view, atlas: view.atlas, at: { layer: 0, column: 0 }, told: {} });
    this.holder = make("div", "vega", null, { "aria-hidden": "true" });
    this.box = make("div", "map", null, { tabindex: 0, role: "application", "aria-roledescription": "map" });
    this.box.append(this.holder);
    if (!this.atlas.first || !this.atlas.data.spec) return this.giveUp(this.atlas.first ? NO_ATLAS : NO_FIRST);
    this.listen();
    this.label();
  }

  listen() {
    const { box, view } = this;
    box.onclick = (event) => {
      const { layer, token } = this.under(event);
      const expert = this.atlas.firstOf(layer, token);
      if (expert >= 0) view.open(layer, expert);
    };
    box.onpointermove = (event) => this.point(event);
    box.onpointerleave = () => view.tip.hide();
    box.onkeydown = (event) => this.onKey(event);
    box.onblur = () => this.frame(-1);
    new ResizeObserver(() => this.resize()).observe(box);
  }

  giveUp(sentence) {
    this.chart = null;
    this.box.replaceChildren(make("p", "instead", sentence));
    for (const name of ["tabindex", "role", "aria-roledescription", "aria-label"]) this.box.removeAttribute(name);
    this.box.onkeydown = this.box.onclick = this.box.onpointermove = null;
  }

  get inner() {
    const { left, right } = this.atlas.data.spec.padding;
    return Math.max(120, this.box.clientWidth - left - right);
  }

  get narrow() {
    return this.box.clientWidth < NARROW;
  }

  padding() {
    const { padding } = this.atlas.data.spec;
    return this.narrow ? { ...padding, bottom: UPRIGHT } : padding;
  }

  async embed() {
    if (!this.atlas.first || !this.atlas.data.spec) return;
    try {
      const embed = await embedder(this.atlas.data.loader);
      if (!this.view.isShown()) return;
      const { data } = this.atlas;
      const rows = { picture: this.picture(), kinds: data.columns, layers: this.names(), unlit: this.unlit() };
      const spec = { ...data.spec, datasets: { ...data.spec.datasets, ...rows }, width: this.inner, padding: this.padding() };
      const made = await embed(this.holder, spec, { background: "transparent", font: getComputedStyle(this.view.root).fontFamily });
      if (!this.view.isShown()) return made.finalize();
      this.chart = made.view;
      this.finalize = made.finalize;
      this.width = this.inner;
      await this.draw();
      this.box.dataset.drawn = "true";
    } catch (error) {
      vega = null;
      console.warn(error);
      this.giveUp(NO_ATLAS);
    }
  }

  end() {
    this.finalize?.();
    this.chart = null;
  }

  // A pixel a layer down; across a pixel of the screen, in the colour of most of the tokens under it.
  picture() {
    const { atlas, inner } = this;
    const { L, T, E } = atlas;
    const wide = Math.max(1, Math.min(Math.round(inner * Math.max(1, devicePixelRatio)), 4 * T));
    const canvas = Object.assign(document.createElement("canvas"), { width: wide, height: L });
    const context = canvas.getContext("2d");
    const image = context.createImageData(wide, L);
    const ink = new Uint32Array(image.data.buffer);
    const count = new Uint16Array(E);
    for (let layer = 0; layer < L; layer++) {
      const colours = Array.from({ length: E }, (_, expert) => {
        const colour = packedColour(atlas.colour(layer, expert));
        if (atlas.few || atlas.name[atlas.at(layer, expert)]) return colour;
        return ((colour & 0xffffff) | (Math.round(255 * atlas.strength(layer, expert)) << 24)) >>> 0;
      });
      for (let x = 0; x < wide; x++) {
        const from = Math.floor((x * T) / wide);
        const to = Math.max(from + 1, Math.floor(((x + 1) * T) / wide));
        let [best, most] = [-1, 0];
        for (let token = from; token < to; token++) {
          const expert = atlas.firstOf(layer, token);
          if (expert >= 0 && ++count[expert] > most) [best, most] = [expert, count[expert]];
        }
        for (let token = from; token < to; token++) {
          const expert = atlas.firstOf(layer, token);
          if (expert >= 0) count[expert] = 0;
        }
        if (best >= 0) ink[layer * wide + x] = colours[best];
      }
    }
    context.putImageData(image, 0, 0);
    return [{ url: canvas.toDataURL() }];
  }

  names() {
    const every = this.atlas.L <= FEW_LAYERS ? 1 : EVERY;
    return this.atlas.layers.map((name, place) => ({ name: place % every ? "" : String(name), place }));
  }

  // What a search leaves out, as columns that are as wide as a pixel at least.
  unlit() {
    const { found } = this.view;
    if (!found?.count) return [];
    const { T } = this.atlas;
    const wide = Math.max(1, Math.ceil(this.inner));
    const on = new Uint8Array(wide + 1);
    for (let token = 0; token < T; token++) if (found.bits[token >> 3] & (1 << (token & 7))) on[Math.min(wide - 1, Math.floor((token / T) * wide))] = 1;
    on[wide] = 1;
    const rows = [];
    let from = null;
    for (let x = 0; x <= wide; x++) {
      if (!on[x]) from ??= x;
      else if (from !== null) {
        rows.push({ start: (from / wide) * T, end: (x / wide) * T });
        from = null;
      }
    }
    return rows;
  }

  resize() {
    if (!this.chart || this.inner === this.width) return;
    this.width = this.inner;
    this.chart.data("picture", this.picture());
    this.chart.padding(this.padding());
    this.light();
  }

  light() {
    if (!this.chart) return;
    this.chart.data("unlit", this.unlit());
    this.draw();
  }

  frame(layer) {
    if (this.told.hot === layer) return;
    this.hot = layer;
    this.draw();
  }

  // Resolves when the view is drawn.
  draw() {
    if (!this.chart) return null;
    const style = getComputedStyle(this.view.root);
    const paper = style.getPropertyValue("--st-background-color").trim() || "#ffffff";
    const signals = { hot: this.hot ?? -1, narrow: this.narrow, ink: style.color, paper };
    for (const [name, value] of Object.entries(signals)) {
      if (this.told[name] !== value) this.chart.signal(name, value);
      this.told[name] = value;
    }
    return this.chart.width(this.inner).runAsync();
  }

  under(event) {
    const { left, top } = this.atlas.data.spec.padding;
    const box = this.holder.getBoundingClientRect();
    const token = Math.floor(((event.clientX - box.left - left) / this.inner) * this.atlas.T);
    const layer = Math.floor((event.clientY - box.top - top) / this.atlas.data.row);
    return { layer: clamped(layer, this.atlas.L - 1), token: clamped(token, this.atlas.T - 1) };
  }

  point(event) {
    const { layer, token } = this.under(event);
    const expert = this.atlas.firstOf(layer, token);
    const [before, after] = this.atlas.around(token, 22);
    const where = expert < 0 ? `${this.atlas.nameOfLayer(layer)} · no expert` : this.atlas.sentence(layer, expert);
    const line = holding(make("span", "line"), before, make("b", "", this.atlas.wordOf(token)), after);
    this.view.tip.show(event, [make("b", "", where), line, make("span", "", this.atlas.columnOf(token)?.label ?? "")]);
  }

  onKey(event) {
    const { layer, column } = this.at;
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || (!steps && event.key !== "Enter")) return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has hotkeys of its own
    if (!steps) {
      const { expert } = this.most();
      return expert >= 0 && this.view.open(layer, expert);
    }
    this.at = { layer: clamped(layer + steps[0], this.atlas.L - 1), column: clamped(column + steps[1], this.atlas.data.columns.length - 1) };
    this.label();
    this.frame(this.at.layer);
  }

  // The expert that is most often the first choice of the column's tokens.
  most() {
    const { layer, column } = this.at;
    const { start, end } = this.atlas.data.columns[column];
    const count = new Uint32Array(this.atlas.E);
    for (let token = start; token < end; token++) {
      const expert = this.atlas.firstOf(layer, token);
      if (expert >= 0) count[expert]++;
    }
    const most = Math.max(...count);
    return { expert: most ? count.indexOf(most) : -1, share: most / (end - start) };
  }

  label() {
    const { layer, column } = this.at;
    const { atlas } = this;
    const { expert, share } = this.most();
    const of = atlas.data.columns[column].label;
    const takes = expert < 0 ? "no expert" : `expert ${expert} (${atlas.called(layer, expert) || "no name"}) is the first choice for ${percent(share)}`;
    const how = "Arrow keys move by layer and kind of text, Enter opens the expert.";
    this.box.setAttribute("aria-label", `${atlas.L} ${atlas.data.word}s by ${atlas.T} ${atlas.data.item}s. ${atlas.nameOfLayer(layer)}, ${of}: ${takes}. ${how}`);
  }
}

// As the pixels of a canvas have it, on a machine with the low byte first.
function packedColour(colour) {
  const value = parseInt(colour.slice(1), 16);
  return (0xff000000 | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}
