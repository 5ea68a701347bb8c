// Experts as plants, each as high as the root of its share; and who got the facts of each batch, from left to right.

const GROUND = 44; // pixels below a plant: its pot, and its share in words
const SKY = 42; // above the highest plant: what the lines mean

class Garden {
  constructor(colours, columns) {
    this.colours = colours;
    this.svg = shape(make("div", "plants"), "svg", { role: "img" });
    this.stream = filled(make("canvas", "stream"), null, { width: columns, height: 256, "aria-hidden": "true" });
    this.column = 0;
    new ResizeObserver(() => this.state && this.draw(this.state)).observe(this.svg.parentElement);
  }

  clear() {
    this.column = 0;
    this.stream.getContext("2d").clearRect(0, 0, this.stream.width, this.stream.height);
  }

  // One more column: the shares of a batch, one on the other.
  add(load) {
    const pen = this.stream.getContext("2d");
    let top = 0;
    load.forEach((share, expert) => {
      const bottom = top + share * this.stream.height;
      pen.fillStyle = this.colours[expert];
      pen.fillRect(this.column, top, 1, bottom - top);
      top = bottom;
    });
    this.column++;
  }

  // `load` and `served`: shares of the facts that chose each expert, and that it had room for; `room`: the most that it
  // takes. Nobody is called dead before the training.
  draw(state) {
    this.state = state;
    const { load, served, room, isTrained } = state;
    const { width, height } = this.svg.parentElement.getBoundingClientRect();
    if (!width) return;
    filled(this.svg, "", { viewBox: `0 0 ${width} ${height}` });
    const base = height - GROUND;
    this.high = (share) => Math.sqrt(Math.min(1, share)) * (base - SKY);
    const fair = base - this.high(1 / load.length);
    shape(this.svg, "path", { class: "fair", d: `M0 ${fair}H${width}M2 9h28` });
    const lines = room < 1 ? "fair share · orange: capacity" : "fair share (height: square root of the share)";
    shape(this.svg, "text", { class: "legend", x: 36, y: 13 }, lines);
    const each = width / load.length;
    load.forEach((share, expert) => {
      const x = each * (expert + 0.5);
      if (share) this.plant(expert, x, base, this.high(share), each);
      else this.stump(x, base);
      if (room < 1 && share > 0.6 * room) this.limit(x, base - this.high(room), each, share > served[expert] + 1e-9);
      this.pot(expert, x, base, share > 0);
      const isDead = isTrained && !share;
      shape(this.svg, "text", { x, y: base + 37, class: isDead ? "dead" : "" }, isDead ? "dead" : percent(share));
    });
    const shares = load.map((share, expert) => `expert ${expert} ${isTrained && !share ? "dead" : percent(share)}`);
    this.svg.setAttribute("aria-label", `Share of the facts: ${shares.join(", ")}`);
  }

  pot(expert, x, base, isAlive) {
    const fill = isAlive ? this.colours[expert] : "var(--st-border-color)";
    shape(this.svg, "path", { class: "pot", d: `M${x - 15} ${base}h30l-4 20h-22z`, fill });
    shape(this.svg, "text", { class: "id", x, y: base + 15, style: isAlive ? `fill: ${inkOn(fill)}` : "" }, expert);
  }

  plant(expert, x, base, grown, each) {
    const height = Math.max(10, grown);
    const top = base - height;
    shape(this.svg, "path", { class: "stem", d: `M${x} ${base}V${top}` });
    const leaves = Math.max(1, Math.min(9, Math.round(height / 16)));
    for (let leaf = 0; leaf < leaves; leaf++) {
      const y = base - 10 - ((height - 12) * leaf * 0.92) / Math.max(1, leaves - 1);
      const long = (leaf % 2 ? 1 : -1) * Math.min(each * 0.42, 9 + height * 0.09);
      const across = Math.abs(long);
      const d = `M${x} ${y}q${long / 2} ${-0.75 * across} ${long} ${-across / 4}q${-0.4 * long} ${0.7 * across} ${-long} ${across / 4}`;
      shape(this.svg, "path", { class: "leaf", d });
    }
    const size = 4 + Math.min(13, height * 0.085, each * 0.16);
    for (let petal = 0; petal < 6; petal++) {
      const turn = (petal * Math.PI) / 3;
      const at = { cx: x + 0.72 * size * Math.cos(turn), cy: top + 0.72 * size * Math.sin(turn), r: 0.52 * size };
      shape(this.svg, "circle", { ...at, fill: this.colours[expert] });
    }
    shape(this.svg, "circle", { class: "eye", cx: x, cy: top, r: size / 2 });
  }

  stump(x, base) {
    shape(this.svg, "path", { class: "wilted", d: `M${x} ${base}C${x} ${base - 20} ${x + 3} ${base - 27} ${x + 12} ${base - 16}q5 4 2 9` });
  }

  limit(x, y, each, isFull) {
    const cross = isFull ? `M${x - 7} ${y - 16}l14 14m0 -14l-14 14` : "";
    shape(this.svg, "path", { class: "limit", d: `M${x - 0.36 * each} ${y}h${0.72 * each}${cross}` });
  }
}
