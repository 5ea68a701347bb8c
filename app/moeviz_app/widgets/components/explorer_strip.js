// The token strip: each token in the colour of its first choice at the chosen layer.

const MOST_PIECES = 256; // of a longer trace, the strip shows a window

class Strip {
  constructor(explorer) {
    this.explorer = explorer;
    this.window = [0, Math.min(explorer.trace.T, MOST_PIECES)];
    this.pieces = []; // by the token's row; what is outside the window is a hole
    this.box = make("div", "strip", null, { role: "listbox", "aria-orientation": "horizontal" });
    this.where = make("span");
    this.pages = make("div", "pages");
    const before = () => this.page(this.window[0] - MOST_PIECES);
    const after = () => this.page(this.window[1]);
    const ways = [button("step", "‹", `${explorer.trace.Item}s before these`, before), button("step", "›", `${explorer.trace.Item}s after these`, after)];
    if (explorer.trace.T > MOST_PIECES) holding(this.pages, this.where, ...ways);
    this.box.onclick = (event) => this.at(event, (token) => this.choose(token));
    this.box.onpointerover = (event) => this.at(event, (token) => explorer.say(explorer.layer, token));
    this.box.onpointerleave = () => explorer.say();
    this.box.onkeydown = (event) => this.onKey(event);
    this.fill();
  }

  // Only to look at.
  freeze() {
    Object.assign(this.box, { onclick: null, onpointerover: null, onpointerleave: null, onkeydown: null });
    this.box.scrollTop = this.box.scrollHeight;
  }

  at(event, act) {
    const piece = event.target.closest(".token");
    if (piece) act(Number(piece.dataset.token));
  }

  choose(token) {
    this.explorer.choose({ token });
    this.pieces[token]?.focus({ preventScroll: true });
  }

  onKey(event) {
    const { token, trace } = this.explorer;
    const to = {
      ArrowRight: () => token + 1,
      ArrowLeft: () => token - 1,
      ArrowDown: () => this.lineFrom(token, 1),
      ArrowUp: () => this.lineFrom(token, -1),
      Home: () => 0,
      End: () => trace.T - 1,
      Enter: () => token,
      " ": () => token,
    }[event.key];
    if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
    this.choose(clamped(to(), trace.T - 1));
    event.preventDefault();
    event.stopPropagation(); // Streamlit has hotkeys of its own
  }

  // The token on the next line, or the line before; past the window's last or first line, what is next to the window.
  lineFrom(token, step) {
    const to = verticalNeighbour(this.pieces, token, step);
    const beyond = step > 0 ? this.window[1] : this.window[0] - 1;
    return to === token && beyond >= 0 && beyond < this.explorer.trace.T ? beyond : to;
  }

  // Show another stretch of the tokens; what was in it before is gone.
  turnTo(from, to) {
    if (from === this.window[0] && to === this.window[1]) return;
    this.window = [from, to];
    this.fill();
  }

  // A whole window from that token on, whose first is chosen.
  page(from) {
    const { T } = this.explorer.trace;
    const start = clamped(from, Math.max(0, T - MOST_PIECES));
    this.turnTo(start, Math.min(start + MOST_PIECES, T));
    this.explorer.choose({ token: start });
    this.explorer.map.setBrush();
  }

  // The stretch in which a token is seen, with as much before it as after.
  windowAround(token) {
    const [from, to] = this.window;
    if (token >= from && token < to) return this.window;
    const start = clamped(token - MOST_PIECES / 2, Math.max(0, this.explorer.trace.T - MOST_PIECES));
    return [start, Math.min(start + MOST_PIECES, this.explorer.trace.T)];
  }

  fill() {
    const [from, to] = this.window;
    const { data, T, Item, newlines } = this.explorer.trace;
    const strip = document.createDocumentFragment();
    this.pieces = [];
    for (let i = from; i < to; i++) {
      if (data.marks[i]) strip.append(make("span", "mark", data.marks[i], { "aria-hidden": "true" }));
      strip.append((this.pieces[i] = this.piece(i)), ...Array.from({ length: newlines[i] }, () => make("br")));
    }
    this.box.replaceChildren(strip);
    this.where.textContent = `${Item}s ${from + 1} to ${to} of ${T.toLocaleString("en")}`;
    this.drawn = null;
  }

  piece(token) {
    const { trace } = this.explorer;
    const classes = ["token", trace.generated[token] ? "generated" : "prompt"];
    for (const kind of ["part", "template", "folded"]) if (trace[`${kind}s`].has(token)) classes.push(kind);
    const made = make("span", classes.join(" "), null, { role: "option", "aria-selected": "false" });
    made.tabIndex = -1;
    made.dataset.token = token;
    return holding(made, make("bdi", "", trace.data.signs?.[token] ?? trace.data.texts[token]), make("sub"));
  }

  draw() {
    const { layer, token, hot } = this.explorer;
    this.turnTo(...this.windowAround(token));
    const dimmed = hot && hot.layer === layer ? hot.expert : null;
    if (this.drawn !== layer) this.paint(layer);
    if (this.drawn !== layer || this.dimmed !== dimmed) this.dim(layer, dimmed);
    Object.assign(this, { drawn: layer, dimmed });
    this.select(token);
  }

  paint(layer) {
    const { trace } = this.explorer;
    const first = trace.data.ordered ? "first-choice " : "";
    const [from, to] = this.window;
    let before = null; // of a run of the same expert, the first token shows its number
    this.box.setAttribute("aria-label", `${trace.Item}s ${from + 1} to ${to}, ${first}experts in ${trace.nameOfLayer(layer)}`);
    this.pieces.forEach((piece, token) => {
      const sign = trace.data.signs?.[token]; // which stands for many tokens, of many experts
      const colour = sign ? null : trace.colourOfToken(layer, token);
      piece.style.cssText = colour ? painted(colour) : "";
      piece.classList.toggle("missing", !trace.isRecorded(layer, token));
      piece.classList.toggle("moved", trace.hasMoved(layer, token));
      const mark = sign ? "" : trace.mark(layer, token);
      piece.lastChild.textContent = mark;
      piece.classList.toggle("again", mark === before && !trace.data.marks[token]);
      before = mark;
      piece.setAttribute("aria-label", sign ?? trace.sentence(layer, token));
    });
  }

  // All tokens grow pale that the expert does not have.
  dim(layer, expert) {
    const { trace } = this.explorer;
    this.pieces.forEach((piece, token) => piece.classList.toggle("cold", expert !== null && !trace.has(layer, token, expert)));
  }

  select(token) {
    const before = this.box.querySelector('[aria-selected="true"]');
    const piece = this.pieces[token];
    if (before === piece) return; // where it stands need not be measured
    before?.setAttribute("aria-selected", "false");
    if (before) before.tabIndex = -1;
    piece.setAttribute("aria-selected", "true");
    piece.tabIndex = 0;
    const { offsetTop: top, offsetHeight: height } = piece;
    const { scrollTop, clientHeight } = this.box;
    if (top < scrollTop || top + height > scrollTop + clientHeight) this.box.scrollTop = top - (clientHeight - height) / 2;
  }
}
