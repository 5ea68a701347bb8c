// Play: the token flies from the strip to the head of its path, through every layer, and into the likeliest next tokens.

const FLIGHT = 520; // ms
const ALL_PLAYED = 9000; // ms of all layers, at most
const LONGEST = 1150; // ms of a layer
const STEPPED = 900; // ms of a layer, where motion is reduced
const ease = (u) => (u < 0.5 ? 2 * u * u : 1 - (2 - 2 * u) ** 2 / 2);
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

class Player {
  constructor(explorer) {
    Object.assign(this, { explorer, playing: null, at: null });
    this.flying = make("span", "flying", "", { "aria-hidden": "true", hidden: "" });
    this.button = button("step play", "▶ Play", `Play the path through the ${explorer.trace.word}s`, () => (this.playing ? this.stop() : this.start()));
  }

  start() {
    const { explorer } = this;
    explorer.strip.turnTo(...explorer.strip.windowAround(explorer.token));
    this.playing = { layer: -1 };
    this.button.textContent = "❚❚ Stop";
    if (stillness.matches) this.step(0);
    else this.fly();
  }

  stop() {
    if (!this.playing) return;
    cancelAnimationFrame(this.playing.frame);
    clearTimeout(this.playing.timer);
    this.playing = this.at = null;
    this.flying.hidden = true;
    this.dots?.remove();
    this.dots = null;
    this.button.textContent = "▶ Play";
    this.explorer.card.next.draw();
    this.explorer.reportLater(REPORT_MS);
  }

  goesOn() {
    return this.playing && this.explorer.isShown();
  }

  show(layer) {
    if (this.playing.layer === layer) return;
    this.playing.layer = layer;
    this.explorer.show({ layer }, true);
    this.follow(this.explorer.card.path.now);
  }

  // Keep what moves in sight, on a phone and in Streamlit's own scrolling box.
  follow(part) {
    part?.scrollIntoView({ block: "nearest", behavior: stillness.matches ? "auto" : "smooth" });
  }

  // One layer after another, and nothing moves.
  step(layer) {
    if (!this.goesOn()) return this.stop();
    if (layer === this.explorer.trace.L) return this.stop();
    this.show(layer);
    this.guess(layer, 1);
    this.playing.timer = setTimeout(() => this.step(layer + 1), STEPPED);
  }

  fly() {
    const { explorer } = this;
    const { trace, token } = explorer;
    this.flying.textContent = trace.data.texts[token];
    this.show(0);
    const start = explorer.strip.pieces[token].getBoundingClientRect();
    this.blank();
    const begun = performance.now();
    const each = Math.min(LONGEST, ALL_PLAYED / trace.L);
    const tick = (now) => {
      if (!this.goesOn()) return this.stop();
      const passed = now - begun;
      if (passed < FLIGHT) this.moveTo(start, ease(clamped(passed / FLIGHT, 1)));
      else {
        this.flying.hidden = true;
        const place = Math.min(trace.L, (passed - FLIGHT) / each);
        const layer = Math.min(trace.L - 1, Math.floor(place));
        this.at = place - layer;
        this.show(layer);
        this.drawDots();
        this.guess(layer, clamped((this.at - 0.6) / 0.4, 1));
        if (place >= trace.L) {
          this.follow(explorer.card.next.box);
          return this.stop();
        }
      }
      this.playing.frame = requestAnimationFrame(tick);
    };
    this.playing.frame = requestAnimationFrame(tick);
  }

  moveTo(start, u) {
    const { path } = this.explorer.card;
    const end = path.box.getBoundingClientRect();
    this.flying.hidden = false;
    const [x, y] = [end.left + path.middle - this.flying.offsetWidth / 2, end.top + 1];
    const [left, top] = [start.left + (x - start.left) * u, start.top + (y - start.top) * u - 40 * Math.sin(Math.PI * u)];
    this.flying.style.transform = `translate(${left}px, ${top}px)`;
  }

  blank() {
    if (this.explorer.trace.next) this.explorer.card.next.fill([]);
  }

  // What the model would write if it stopped here, on its way from the layer before to this one.
  guess(layer, u) {
    const { trace, token, card } = this.explorer;
    if (!trace.next) return;
    const of = (at) => (at === trace.L - 1 ? trace.next.after(token) : trace.now === trace.plain ? trace.next.lens(at, token) : null);
    const [before, here] = [layer ? (of(layer - 1) ?? []) : [], of(layer)];
    if (!here) return;
    const last = layer === trace.L - 1;
    card.next.title.textContent = last ? "Five likeliest next tokens" : `If the model stopped after ${trace.nameOfLayer(layer)}`;
    const list = u < 1 ? mixed(before, here, ease(Math.max(0, u))) : here;
    card.next.fill(list);
    card.next.words.textContent = card.next.follows(list); // of these bars, and not of those at the end
  }

  // The token in the experts' hands: a dot for each, as large as its weight. Drawn anew with the path.
  drawDots() {
    if (this.at === null) return;
    const { trace, token, layer, card } = this.explorer;
    const { path } = card;
    if (!this.dots?.isConnected || this.dots.layer !== layer) {
      this.dots?.remove();
      this.dots = shape(path.svg, "g", { class: "dots" });
      this.dots.layer = layer;
      this.ways = trace.chosen(layer, token).map(({ expert, weight }) => ({
        colour: trace.colour(layer, expert),
        radius: 5 + 7 * Math.sqrt(Math.min(1, Math.abs(weight ?? 0.3))),
        expert,
        down: path.svg.querySelector(`[data-way="${layer} ${expert} down"]`),
        up: path.svg.querySelector(`[data-way="${layer} ${expert} up"]`),
        dot: shape(this.dots, "circle", { class: "dot" }),
      }));
    }
    for (const way of this.ways) this.place(way, Math.min(this.at, 0.999));
  }

  place({ colour, radius, expert, down, up, dot }, u) {
    const { path } = this.explorer.card;
    const { layer } = this.explorer;
    const along = (line, share) => line.getPointAtLength(line.getTotalLength() * share);
    const { x, y } =
      u < 0.4
        ? along(down, ease(u / 0.4))
        : u < 0.62
          ? { x: path.x(expert, layer), y: path.top(layer) + (GLASS * (u - 0.4)) / 0.22 }
          : along(up, ease((u - 0.62) / 0.38));
    filled(dot, null, { cx: x, cy: y, r: radius, ...(u < 0.4 ? { class: "dot ink" } : { class: "dot", fill: colour }) });
  }
}

// Between two lists of likely tokens.
function mixed(before, after, u) {
  const both = new Map(before.map(({ text, p }) => [text, { text, from: p, to: 0 }]));
  for (const { text, p } of after) both.set(text, { text, from: both.get(text)?.from ?? 0, to: p });
  const list = [...both.values()].map(({ text, from, to }) => ({ text, p: from + (to - from) * u }));
  return list.sort((one, other) => other.p - one.p).slice(0, AFTER);
}
