// Which word decided? Arcs to the chosen token from each earlier one without which it would have gone elsewhere, and lines
// under all that raised the router's score for its expert.

const AGREED = 3; // of four fillers in a token's place
const UNKNOWN = -32768; // a fall that no score tells
const SEEN = 0.02; // of the router's score: a fall of less is no line
const MOST_SAID = 3;

class Decided {
  constructor(explorer) {
    this.explorer = explorer;
    this.isOn = false;
    this.button = button("step decide", "Which word decided?", null, () => this.press());
    this.words = make("p", "decided", "", { "aria-live": "polite", hidden: "" });
    this.arcs = document.createElementNS(SVG, "svg");
    this.arcs.setAttribute("class", "arcs");
    this.arcs.setAttribute("aria-hidden", "true");
    new ResizeObserver(() => this.isOn && this.draw()).observe(explorer.strip.box);
    this.found = null;
  }

  // The answer where there is one, and whether it can be asked for.
  learn(found, isOffered) {
    if (found && this.key !== found.flips) {
      this.key = found.flips;
      this.fillers = found.fillers.map((text) => text.trim() || "⏎");
      this.flips = numbers(found.flips, Uint8Array); // of four fillers
      this.falls = numbers(found.falls, Int16Array); // thousandths
      this.to = numbers(found.to, found.wide ? Uint16Array : Uint8Array);
    }
    const isNews = Boolean(found) !== Boolean(this.found) || this.button.hidden !== (!found && !isOffered);
    this.found = found;
    this.button.hidden = !found && !isOffered;
    if (this.button.hidden) this.isOn = false;
    if (isNews && this.words.isConnected) this.draw();
  }

  press() {
    this.isOn = !this.isOn;
    this.isAsked = false;
    this.draw();
  }

  draw() {
    if (!this.isOn && this.words.hidden) return;
    this.button.setAttribute("aria-pressed", String(this.isOn));
    this.words.hidden = !this.isOn;
    const { strip, trace, layer, token } = this.explorer;
    if (this.isOn && !this.found && token > (trace.data.leading ?? 0) && !this.isAsked) {
      this.isAsked = true;
      this.explorer.send("decide", { id: trace.data.id, press: Math.random() });
    }
    strip.pieces.forEach((piece) => piece.classList.remove("decides"));
    this.arcs.replaceChildren();
    strip.box.classList.toggle("with-arcs", this.isOn);
    if (!this.isOn) return this.arcs.remove();
    if (this.arcs.parentNode !== strip.box) strip.box.append(this.arcs);
    const list = this.found && trace.now === trace.plain ? this.before(layer, token) : [];
    this.words.replaceChildren(...this.told(list));
    if (strip.pieces[token]) for (const one of list) this.drawOne(one);
  }

  before(layer, token) {
    const { T } = this.explorer.trace;
    return Array.from({ length: token }, (_, by) => {
      const at = (layer * T + token) * T + by;
      return { by, flips: this.flips[at], fall: this.falls[at] === UNKNOWN ? 0 : this.falls[at] / 1000, to: this.to[at] };
    });
  }

  drawOne({ by, flips, fall }) {
    const { strip, token } = this.explorer;
    const piece = strip.pieces[by];
    if (!piece || (flips < AGREED && fall <= SEEN)) return;
    piece.classList.add("decides");
    const [from, to] = [this.at(piece), this.at(strip.pieces[token])];
    if (fall > SEEN) shape(this.arcs, "rect", { x: from.left + 2, y: from.bottom + 1, width: from.wide - 4, height: Math.max(1.5, 5 * fall), rx: 1 });
    if (flips < AGREED) return;
    const lift = 8 + 0.06 * Math.abs(to.x - from.x);
    const sameLine = Math.abs(from.top - to.top) < 4;
    const d = sameLine
      ? `M${from.x},${from.top} C${from.x},${from.top - lift} ${to.x},${to.top - lift} ${to.x},${to.top - 2}`
      : `M${from.x},${from.bottom} C${from.x},${from.bottom + 26} ${to.x},${to.top - 34} ${to.x},${to.top - 3}`;
    for (const className of ["arc-halo", "arc"]) shape(this.arcs, "path", { d, class: className });
  }

  at({ offsetLeft: left, offsetTop: top, offsetWidth: wide, offsetHeight: high }) {
    return { left, top, wide, bottom: top + high, x: left + wide / 2 };
  }

  told(list) {
    const { trace, layer, token, mutes } = this.explorer;
    if (mutes.length) return ["Bring the muted expert back to ask this: words were replaced in the model as it is."];
    if (token <= (trace.data.leading ?? 0)) return ["Nothing stands before it."];
    if (!this.found) return ["The model reads the text again, with other words in it …"];
    const [first] = trace.chosen(layer, token);
    if (!first) return [`At ${trace.nameOfLayer(layer)}, “${trace.data.texts[token]}” has no expert.`];
    const expert = (id) => `expert ${id}${trace.nameOf(layer, id) ? ` (${trace.nameOf(layer, id)[0]})` : ""}`;
    const word = (by) => `“${trace.data.texts[by]}”`;
    const deciding = list.filter(({ flips }) => flips >= AGREED);
    if (deciding.length) {
      const said = deciding.slice(0, MOST_SAID).map(({ by, to }) => `${word(by)} → ${expert(to)}`);
      const more = deciding.length > MOST_SAID ? ` and ${deciding.length - MOST_SAID} more` : "";
      const how = ` An arc: at least three of four other words (${this.fillers.join(" ")}) in its place changed the first choice. A line: points that the router's score falls.`;
      return [
        `${capitalised(trace.nameOfLayer(layer))} sends ${word(token)} to ${expert(first.expert)}. Replace one word and it goes elsewhere: ${said.join("; ")}${more}.`,
        make("span", "soft", how),
      ];
    }
    const most = list.reduce((best, one) => (one.fall > (best?.fall ?? SEEN) ? one : best), null);
    const score = most && `${word(most.by)} matters most: without it the router's score falls by ${Math.round(100 * most.fall)} points.`;
    return [`No single earlier word decides: whichever one is replaced, ${word(token)} stays with ${expert(first.expert)}. `, make("span", "soft", score ?? "")];
  }
}
