// One MoE layer as it is, for one token: the router, its experts as glasses filled to the router's score, the chosen
// ones lit, with curves as wide as their weights, and what they answer added.

const WIDTH = 420;
const GLASSES = 16; // experts with an id and a score in their glass; of more, a grid
const LARGE_GRID = 128; // experts; a grid of more is of small cells
const GRID_ROWS = 18; // at most
const TOP = 104; // where the experts begin: above them are token and router

// Where the experts of a layer stand, and how large.
function gridOf(count) {
  const few = count <= GLASSES;
  const large = few || count <= LARGE_GRID;
  const columns = large ? Math.min(count, 16) : Math.max(32, Math.ceil(count / GRID_ROWS));
  const [high, gap] = few ? [62, 4] : large ? [18, 4] : [10, 2];
  const wide = Math.min(WIDTH / columns, 110);
  const left = (WIDTH - wide * columns) / 2;
  return {
    few,
    wide,
    high,
    bottom: TOP + Math.ceil(count / columns) * (high + gap),
    x: (expert) => left + ((expert % columns) + 0.5) * wide,
    y: (expert) => TOP + Math.floor(expert / columns) * (high + gap),
  };
}

function curve(x1, y1, x2, y2) {
  const middle = (y1 + y2) / 2;
  return `M${x1},${y1} C${x1},${middle} ${x2},${middle} ${x2},${y2}`;
}

class Drawing {
  constructor(explorer) {
    this.explorer = explorer;
    this.box = make("div", "drawing");
  }

  draw() {
    const { layer, token, trace } = this.explorer;
    const count = trace.counts[layer];
    this.grid = gridOf(count);
    this.list = trace.chosen(layer, token);
    this.chosen = new Map(this.list.map((choice) => [choice.expert, choice]));
    const experts = count > 1 ? `${count} experts` : "one expert";
    const name = `A router and ${experts}: ${trace.sentence(layer, token)}`;
    const picture = make("div");
    const size = `0 0 ${WIDTH} ${this.grid.bottom + 62}`;
    this.svg = shape(picture, "svg", { viewBox: size, role: "group", "aria-label": name });
    this.drawCurves();
    this.drawRouter();
    for (let expert = 0; expert < count; expert++) this.drawExpert(expert);
    this.drawWeights();
    this.drawSum();
    this.box.replaceChildren(picture);
  }

  drawCurves() {
    const { few, high, bottom, x, y } = this.grid;
    const { layer, trace } = this.explorer;
    const middle = WIDTH / 2;
    if (few)
      for (let expert = 0; expert < trace.counts[layer]; expert++)
        if (!this.chosen.has(expert)) shape(this.svg, "path", { d: curve(middle, 60, x(expert), TOP), class: "dim" });
    for (const { expert, weight } of this.list) {
      const to = curve(middle, 60, x(expert), y(expert));
      const from = curve(x(expert), y(expert) + high, middle, bottom + 36);
      const width = 2 + 10 * Math.min(Math.abs(weight ?? 0.3), 1);
      for (const d of [to, from]) {
        shape(this.svg, "path", { d, class: "halo", "stroke-width": width + 2.5 }); // seen where the colour is the page's
        shape(this.svg, "path", { d, class: "lit", stroke: trace.colour(layer, expert), "stroke-width": width });
      }
    }
  }

  drawRouter() {
    const { layer, token, trace } = this.explorer;
    const middle = WIDTH / 2;
    const shown = cut(trace.data.texts[token], 24);
    const half = 4.3 * Math.max(wideness(shown), 2) + 9;
    shape(this.svg, "rect", { x: middle - half, y: 1, width: 2 * half, height: 23, rx: 5, class: "box" });
    shape(this.svg, "text", { x: middle, y: 17, class: "pill" }, shown);
    shape(this.svg, "path", { d: `M${middle},24 V36`, class: "arrow" });
    shape(this.svg, "rect", { x: middle - 70, y: 36, width: 140, height: 25, rx: 12, class: "box" });
    shape(this.svg, "text", { x: middle, y: 53 }, cut(`router of ${trace.nameOfLayer(layer)}`, 22));
  }

  // A glass, filled to the router's score where that is known.
  drawExpert(expert) {
    const { few, high, wide, x, y } = this.grid;
    const { layer, token, trace } = this.explorer;
    const lit = this.chosen.has(expert);
    const score = trace.score(layer, token, expert);
    const said = score === null ? "" : `, the router's score ${percent(score)}`;
    const link = this.explorer.linkTo(layer, expert, shape(this.svg, "a", { class: lit ? "expert lit-expert" : "expert" }));
    filled(link, null, { "aria-label": `Expert ${expert} of ${trace.nameOfLayer(layer)}${said}` });
    if (!few && !lit) link.setAttribute("tabindex", "-1"); // a grid of hundreds is for the mouse
    shape(link, "title", {}, `Expert ${expert}${said}. Open its page`);
    const left = x(expert) - wide / 2 + 2;
    const level = few && score !== null ? score * high : lit ? high : (score ?? 0) * high;
    const colour = trace.colour(layer, expert);
    const box = { x: left, width: Math.max(wide - 4, 3), rx: few ? 5 : 2 };
    shape(link, "rect", { ...box, y: y(expert), height: high, class: "body", ...(lit ? { stroke: colour } : {}) });
    shape(link, "rect", { ...box, y: y(expert) + high - level, height: level, class: "level", fill: colour });
    if (few) this.writeInto(link, expert, score, lit ? level : 0);
  }

  // The id, and the score; in black or white where the glass is filled behind them.
  writeInto(link, expert, score, level) {
    const { high, wide, x, y } = this.grid;
    const colour = this.explorer.trace.colour(this.explorer.layer, expert);
    const small = wide < 34 ? ";font-size:9.5px" : "";
    const inked = (from) => (level > high - from ? `fill:${inkOn(colour)};stroke:none` : "");
    shape(link, "text", { x: x(expert), y: y(expert) + 17, class: "id", style: inked(5) }, expert);
    if (score === null) return;
    const style = inked(high - 12) + small;
    shape(link, "text", { x: x(expert), y: y(expert) + high - 7, class: "score", style }, percent(score));
  }

  drawWeights() {
    const { few, wide, bottom, x } = this.grid;
    if (!few) return;
    const style = wide < 34 && this.list.length > 4 ? "font-size:9px" : "";
    if (!this.list.length || this.list[0].weight === null) return;
    const weighed = this.explorer.trace.weighed(this.list); // as the words below say it
    this.list.forEach(({ expert }, at) => shape(this.svg, "text", { x: x(expert), y: bottom + 16, class: "weight", style }, weighed[at]));
  }

  drawSum() {
    const { layer, trace } = this.explorer;
    const { bottom } = this.grid;
    const middle = WIDTH / 2;
    const next = layer + 1 < trace.L ? `→ on to ${trace.nameOfLayer(layer + 1)}` : "→ out of the last MoE " + trace.word;
    shape(this.svg, "circle", { cx: middle, cy: bottom + 46, r: 13, class: "box" });
    shape(this.svg, "text", { x: middle, y: bottom + 51, class: "sum" }, "+");
    shape(this.svg, "text", { x: middle + 20, y: bottom + 51, class: "after" }, cut(next, 30));
  }
}

// Letters, where one of a wide script is two.
function wideness(text) {
  return [...text].reduce((sum, letter) => sum + (letter.codePointAt(0) > 0x2e7f ? 2 : 1), 0);
}
