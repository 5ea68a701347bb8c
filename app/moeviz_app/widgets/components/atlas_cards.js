// A card for every expert of a few, or of a layer; and all of many as a grid.

const ALL_AT_ONCE = 64; // experts that each have their card; of more, those of one layer
const LETTERS_AROUND = 8; // of a token on a card, on either side
const BAR = 10; // units of a kind's bar
const HIGH = 26;
const [CELL_HIGH, FEW_HIGH] = [8.5, 17]; // of many layers, and of few
const NARROWEST_GRID = 640;

class Cards {
  constructor(view) {
    Object.assign(this, { view, atlas: view.atlas });
    this.title = make("h2", "title");
    this.note = make("span", "note");
    this.box = make("div", "cards");
    this.layer = Math.floor(this.atlas.L / 2);
    this.pick = this.atlas.total > ALL_AT_ONCE ? this.picker() : "";
    this.head = holding(make("div", "gallery-head"), this.title, this.note, this.pick);
  }

  picker() {
    const { atlas } = this;
    const select = make("select", "", null, { "aria-label": `${atlas.data.word} whose experts have cards` });
    atlas.layers.forEach((name, place) => select.append(make("option", "", `${atlas.data.word} ${name}`, { value: place })));
    select.value = this.layer;
    select.onchange = () => {
      this.layer = Number(select.value);
      this.draw();
    };
    return select;
  }

  draw() {
    const { found } = this.view;
    this.box.replaceChildren();
    const is = Boolean(found?.enough && found.takers.length);
    if (this.pick) this.pick.hidden = is;
    if (is) return this.drawFound(found);
    const layers = this.pick ? [this.layer] : this.atlas.layers.map((_, layer) => layer);
    this.title.textContent = this.pick ? `The ${this.atlas.counts[this.layer]} experts of` : `All ${this.atlas.total} experts`;
    this.note.textContent = `bars: shares of each ${this.atlas.data.by === "kinds" ? "kind" : "class"}; dashed: uniform`;
    for (const layer of layers) {
      if (!this.pick) this.box.append(make("h3", "", this.atlas.nameOfLayer(layer)));
      for (let expert = 0; expert < this.atlas.counts[layer]; expert++) this.box.append(this.card(layer, expert));
    }
  }

  drawFound(found) {
    const { takers, marked, word } = found;
    const several = marked.length > takers.length ? `The first ${takers.length} of ${marked.length}` : String(takers.length);
    const one = marked.length === 1;
    this.title.textContent = `${several} expert${one ? "" : "s"} that take${one ? "s" : ""} “${cut(word, 30)}” more than usual`;
    this.note.textContent = `ranked by ${found.weighed ? "their weight on these tokens" : "the share of these tokens that they have"} (lower end of a 90 % interval), less that on all`;
    for (const taker of takers) this.box.append(this.card(taker[0], taker[1], taker));
  }

  card(layer, expert, taker = null) {
    const { atlas, view } = this;
    const colour = atlas.colour(layer, expert);
    const called = atlas.called(layer, expert, true);
    const made = view.linkTo(layer, expert, make("a", atlas.nameOf(layer, expert) ? "card" : "card unnamed"));
    const id = make("span", "id", taker || !atlas.few ? `${atlas.layers[layer]}·${expert}` : String(expert), { style: painted(colour) });
    made.append(holding(make("span", "top"), id, make("span", "called", called, { title: atlas.called(layer, expert) })));
    if (taker) made.append(make("span", "hits", this.hits(taker)));
    made.append(this.bars(layer, expert));
    const keeps = atlas.nameOf(layer, expert) ? [] : atlas.keepsOf(layer, expert); // a name says it otherwise
    for (const token of atlas.drawnOf(layer, expert).slice(0, keeps.length ? 1 : 2)) made.append(this.line(token, colour));
    if (keeps.length) made.append(make("span", "keeps", `keeps ${keeps.map(([word, has, times]) => `“${cut(word, 12)}” ${has}/${times}`).join(" · ")}`));
    made.title = this.loadOf(layer, expert);
    made.setAttribute("aria-label", `${atlas.sentence(layer, expert)}${taker ? ` · ${this.hits(taker)}` : ""} · ${this.most(layer, expert)} · ${this.loadOf(layer, expert)}`);
    return made;
  }

  hits([, , has, of, share]) {
    return this.view.found.weighed ? `${has} of ${of}, weight ${percent(share)}` : `${has} of ${of}`;
  }

  loadOf(layer, expert) {
    const { atlas } = this;
    if (!atlas.has[atlas.at(layer, expert)]) return "no tokens here";
    const fits = atlas.nameOf(layer, expert) ? ` · φ ${(atlas.fits[atlas.at(layer, expert)] / 100).toFixed(2)}` : "";
    const beaten = atlas.isBeaten(layer, expert) ? "token says more · " : "";
    return `${beaten}${atlas.load(layer, expert).toFixed(2)} × uniform${fits}`;
  }

  // In words what the bars show: the three kinds that it takes most of.
  most(layer, expert) {
    const shares = this.atlas.kinds.map((kind, place) => [kind, this.atlas.share(layer, expert, place)]);
    const first = shares.sort((a, b) => b[1] - a[1]).slice(0, 3).filter(([, share]) => share > 0);
    return first.length ? `takes ${listed(first.map(([kind, share]) => `${percent(share)} of ${kind}`))}` : "takes nothing";
  }

  bars(layer, expert) {
    const { atlas } = this;
    const uniform = atlas.uniform(layer);
    const full = atlas.few ? 1 : Math.min(1, 6 * uniform) || 1;
    const svg = shape(make("div"), "svg", { viewBox: `0 0 ${Math.max(atlas.C, 1) * BAR} ${HIGH}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (let kind = 0; kind < atlas.C; kind++) {
      const share = atlas.share(layer, expert, kind);
      const high = share ? clamped((HIGH - 1) * (share / full), HIGH - 1) : 0;
      const box = { x: kind * BAR + 1, y: HIGH - Math.max(high, 0.8), width: BAR - 2, height: Math.max(high, 0.8) };
      shape(shape(svg, "rect", { ...box, fill: atlas.data.kindColours[kind], opacity: share >= uniform ? 1 : 0.45 }), "title", {}, `${atlas.kinds[kind]}: ${percent(share)} of its tokens`);
    }
    const line = HIGH - (HIGH - 1) * (uniform / full);
    shape(svg, "path", { d: `M0,${line}H${atlas.C * BAR}`, class: "uniform" });
    return svg;
  }

  line(token, colour) {
    const [before, after] = this.atlas.around(token, LETTERS_AROUND + 2);
    const hit = make("b", "", cut(this.atlas.wordOf(token), 14), { style: painted(colour) });
    const left = make("bdi", "", [...before].slice(-LETTERS_AROUND).join(""));
    return holding(make("span", "line"), holding(make("span", "before"), left), hit, make("bdi", "after", after));
  }
}

class Grid {
  constructor(view) {
    Object.assign(this, { view, atlas: view.atlas, at: { layer: 0, expert: 0 } });
    this.high = this.atlas.L <= FEW_LAYERS ? FEW_HIGH : CELL_HIGH;
    this.canvas = make("canvas", "", null, { tabindex: 0, role: "application", "aria-roledescription": "grid" });
    this.title = make("h2", "title", `All ${this.atlas.total.toLocaleString("en")} experts`);
    const note = make("span", "note", `${this.atlas.data.word}s down, experts across; coloured by the kind that an expert is named for (blue: a class of ${this.atlas.data.item}s), paler where the name fits less, grey where it has none, darker the more of the load it takes`);
    this.box = holding(make("div", "grid-box"), holding(make("div", "gallery-head"), this.title, note), holding(make("div", "scroll"), this.canvas));
    this.canvas.onclick = (event) => this.open(this.under(event));
    this.canvas.onpointermove = (event) => {
      const { layer, expert } = this.under(event);
      if (expert < this.atlas.counts[layer]) view.tip.show(event, [make("b", "", this.atlas.sentence(layer, expert))]);
    };
    this.canvas.onpointerleave = () => view.tip.hide();
    this.canvas.onkeydown = (event) => this.onKey(event);
    this.canvas.onfocus = this.canvas.onblur = () => this.draw();
    new ResizeObserver(() => this.width !== this.wanted && this.draw()).observe(this.box);
    this.label();
  }

  get wanted() {
    return Math.max(this.box.clientWidth, NARROWEST_GRID);
  }

  open({ layer, expert }) {
    if (expert < this.atlas.counts[layer]) this.view.open(layer, expert);
  }

  draw() {
    const { canvas, atlas, view } = this;
    const ratio = Math.max(1, devicePixelRatio);
    const width = (this.width = this.wanted);
    const wide = (this.wide = width / atlas.E);
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(atlas.L * this.high * ratio) });
    Object.assign(canvas.style, { width: `${width}px`, height: `${atlas.L * this.high}px` });
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const marked = view.found && new Set(view.found.marked.map(([layer, expert]) => atlas.at(layer, expert)));
    for (let layer = 0; layer < atlas.L; layer++)
      for (let expert = 0; expert < atlas.counts[layer]; expert++) {
        const at = atlas.at(layer, expert);
        const named = atlas.name[at] > 0;
        context.globalAlpha = marked ? (marked.has(at) ? 1 : 0.12) : named ? Math.min(1, 0.3 + atlas.fits[at] / 100) : atlas.strength(layer, expert);
        context.fillStyle = atlas.kindColour(layer, expert);
        context.fillRect(expert * wide + 0.4, layer * this.high + 0.4, wide - 0.8, this.high - 0.8);
      }
    context.globalAlpha = 1;
    if (canvas.getRootNode().activeElement !== canvas) return;
    Object.assign(context, { strokeStyle: getComputedStyle(view.root).color, lineWidth: 2 });
    context.strokeRect(this.at.expert * wide, this.at.layer * this.high, wide, this.high);
  }

  under(event) {
    const box = this.canvas.getBoundingClientRect();
    const layer = clamped(Math.floor((event.clientY - box.top) / this.high), this.atlas.L - 1);
    return { layer, expert: clamped(Math.floor((event.clientX - box.left) / this.wide), this.atlas.E - 1) };
  }

  onKey(event) {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || (!step && event.key !== "Enter")) return;
    event.preventDefault();
    event.stopPropagation();
    if (!step) return this.open(this.at);
    const layer = clamped(this.at.layer + step[0], this.atlas.L - 1);
    this.at = { layer, expert: clamped(this.at.expert + step[1], this.atlas.counts[layer] - 1) };
    this.label();
    this.draw();
  }

  label() {
    const { layer, expert } = this.at;
    this.canvas.setAttribute("aria-label", `${this.atlas.total} experts. ${this.atlas.sentence(layer, expert)}. Arrow keys move, Enter opens the expert.`);
  }
}
