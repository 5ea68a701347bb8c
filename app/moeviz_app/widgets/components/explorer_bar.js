// Above the strip: the layers, Play, Which word decided and Which layer decided. Below it: the experts of the chosen layer, what can be
// counted, and what is worth seeing.

const FEW_LAYERS = 12; // of so many, each has a button
const LOOK_MS = 100;
const PATIENCE = 600; // looks: a model may have to be loaded
const DIRECT = "Which layer decided? What each part of the model wrote of this choice, directly";

class Bar {
  constructor(explorer, direct) {
    this.explorer = explorer;
    const { trace } = explorer;
    const last = trace.L - 1;
    const step = (by) => () => explorer.choose({ layer: clamped(explorer.layer + by, last) });
    this.layers = trace.L > FEW_LAYERS ? [] : trace.layers.map((_, layer) => this.ofLayer(layer));
    this.where = make("span", "where");
    const ways = [button("step", "‹", `${trace.word} before`, step(-1)), this.where, button("step", "›", `next ${trace.word}`, step(1))];
    const steps = make("div", "steps", null, { role: "group", "aria-label": trace.word });
    holding(steps, make("span", "name", trace.word), ...(this.layers.length ? this.layers : ways));
    if (trace.L > 1) steps.append(explorer.player.button);
    this.direct = button("step decide", "Which layer decided?", DIRECT, () => this.askDirect());
    const questions = holding(make("div", "questions"), explorer.decided.button, this.direct);
    this.box = holding(make("div", "bar"), steps, questions);
    this.learn(direct);
  }

  // Whether the parts of the choice are on screen; null where they cannot be asked for.
  learn(direct) {
    this.direct.hidden = direct === null;
    this.direct.setAttribute("aria-pressed", String(direct === true));
    if (!direct || !this.leads) return;
    this.leads = false;
    this.leadTo(".st-key-direct-parts .stVegaLiteChart", PATIENCE);
  }

  // They are under the map, and there once the model has run.
  leadTo(place, left) {
    const found = document.querySelector(place);
    if (found) found.scrollIntoView({ block: "center" });
    else if (left && this.box.isConnected) setTimeout(() => this.leadTo(place, left - 1), LOOK_MS);
  }

  askDirect() {
    const { explorer } = this;
    this.leads = this.direct.getAttribute("aria-pressed") === "false";
    explorer.reportNow();
    explorer.send("direct", { token: explorer.token, on: this.leads, id: explorer.trace.data.id, press: Math.random() });
  }

  ofLayer(layer) {
    const { trace } = this.explorer;
    return button("step", trace.layers[layer], trace.nameOfLayer(layer), () => this.explorer.choose({ layer }));
  }

  draw() {
    const { layer, trace } = this.explorer;
    this.layers.forEach((made, at) => made.setAttribute("aria-pressed", String(at === layer)));
    this.where.textContent = `${trace.layers[layer]} (${layer + 1} of ${trace.L})`;
  }
}

// The experts of the chosen layer: name, and how many tokens of the strip show each. Links to their pages.
class Legend {
  constructor(explorer) {
    this.explorer = explorer;
    this.chips = make("div", "legend", null, { role: "group" });
    this.words = make("p", "counted");
    this.box = holding(make("div", "experts"), this.chips, this.words);
  }

  draw() {
    const { layer, trace, strip } = this.explorer;
    const key = [layer, ...strip.window].join();
    if (this.drawn === key && this.of === trace.now && this.query === this.explorer.query) return;
    [this.drawn, this.of, this.query] = [key, trace.now, this.explorer.query];
    const { had } = trace.counted(layer, strip.window);
    const own = had.map((_, expert) => expert).filter((expert) => !trace.isGrey(layer, expert));
    const others = had.length - own.length;
    this.chips.setAttribute("aria-label", `Experts of ${trace.nameOfLayer(layer)}`);
    this.chips.replaceChildren(...own.map((expert) => this.chip(layer, expert, had[expert])));
    if (others) this.chips.append(make("span", "name", `${others} ${others > 1 ? "others" : "other"}`));
    this.say(trace.layerSentence(layer, strip.window));
  }

  chip(layer, expert, tokens) {
    const { explorer } = this;
    const { trace } = explorer;
    const name = trace.nameOf(layer, expert);
    const said = name ? name[0] : trace.names ? "no kind of text" : "";
    const title = `Expert ${expert} of ${trace.nameOfLayer(layer)}${name ? `, ${name[1]}` : ""}: open its page`;
    const made = explorer.linkTo(layer, expert, make("a", tokens ? "chip" : "chip unused", null, { title, "aria-label": title }));
    const id = make("span", "id", expert, { style: painted(trace.colour(layer, expert)) });
    if (!tokens) return holding(made, id, make("span", "soft", "0"));
    return holding(made, id, ...(said ? [make("span", "called", said)] : []), make("span", "soft", tokens));
  }

  // Who points at it may count.
  say(sentence) {
    this.words.replaceChildren();
    if (!sentence) return;
    const { explorer } = this;
    const { layer } = explorer;
    const hot = { layer, expert: sentence.expert };
    const said = button("pointed", sentence.said, "Point at it and count", () => {
      explorer.pinned = explorer.pinned?.expert === hot.expert ? null : hot;
      explorer.heat(null);
    });
    said.onpointerenter = () => explorer.heat(hot);
    said.onpointerleave = () => explorer.heat(null);
    this.words.append(sentence.before, said, sentence.after);
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
