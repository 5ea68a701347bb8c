// Two models that read the same texts: first choices of a layer, a square for each expert with a name that holds or none,
// and the share of each kind of text that the chosen expert takes.

class Twins {
  constructor(root, data) {
    Object.assign(this, { root, data, text: data.groups[0], place: 0 });
    const [{ layers, names }] = data.twins;
    this.experts = names.length / layers.length;
    this.place = 2 * this.experts + 4;
    const kinds = [...new Set(data.groups)];
    this.texts = new Choice("Text", kinds.map((kind) => button("kind", kind, null, null)), (at) => {
      this.text = kinds[at];
      this.texts.show(at);
      this.draw();
    });
    this.texts.show(0);
    this.parts = data.twins.map((twin) => this.twin(twin));
    root.replaceChildren(this.texts.box, holding(make("div", "twins-of"), ...this.parts.map((part) => part.box)));
    this.draw();
  }

  twin(twin) {
    const { data, experts } = this;
    const shares = numbers(twin.shares, Float32Array);
    const first = numbers(twin.first, Int8Array);
    const named = twin.by.filter(Boolean).length;
    const head = holding(make("div", "head"), make("h3", "", twin.title), make("b", "", `${named} of ${twin.names.length} names hold`), make("span", "caption", twin.said));
    const squares = twin.names.map((name, at) => {
      const made = button(`square ${twin.by[at] || "none"}`, twin.by[at] ? "" : "·", `layer ${twin.layers[Math.floor(at / experts)]}, expert ${at % experts}: ${name}`, null);
      if (twin.by[at]) made.style.cssText = painted(data.colours[at % experts]);
      return made;
    });
    const grid = new Choice(`Experts of the model, ${twin.title}`, squares, (at) => this.pick(at), experts);
    grid.box.classList.add("grid");
    const strip = make("div", "strip");
    const name = make("h4", "");
    const bars = data.kinds.map((kind) => holding(make("div", "bar"), make("span", "", kind), holding(make("span", "track"), make("i")), make("span", "number")));
    const box = holding(make("div", "twin"), head, strip, holding(make("div", "both"), grid.box, holding(make("div"), name, ...bars)));
    return { twin, shares, first, grid, strip, name, bars, box };
  }

  pick(place) {
    this.place = place;
    this.draw();
  }

  draw() {
    const { data, experts, place } = this;
    const [layer, expert] = [Math.floor(place / experts), place % experts];
    const shown = data.groups.flatMap((group, at) => (group === this.text ? [at] : []));
    for (const { twin, shares, first, grid, strip, name, bars } of this.parts) {
      grid.show(place);
      strip.replaceChildren(
        ...shown.map((at) => {
          const choice = first[layer * data.words.length + at];
          const made = word(data.words[at], data.colours[choice], "span");
          if (choice !== expert) made.style.cssText = `background:color-mix(in srgb, ${data.colours[choice]} 28%, transparent)`;
          return made;
        }),
      );
      name.textContent = `Layer ${twin.layers[layer]}, expert ${expert}: ${twin.names[place]}`;
      bars.forEach((bar, kind) => {
        const share = shares[place * data.kinds.length + kind];
        const [fill] = bar.querySelectorAll("i");
        Object.assign(fill.style, { width: `${100 * share}%`, background: data.colours[expert] });
        bar.lastChild.textContent = percent(share);
      });
    }
  }
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".twins");
  root.twins ??= new Twins(root, data);
}
