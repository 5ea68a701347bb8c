// Strip, findings, map and card of one trace. What is chosen lives here, so a choice is drawn at once; the server hears of
// it a moment later.

const STALE = "What you ask for has changed. Run draws it anew.";
const REPORT_MS = 150; // keys that are held are one choice
const MOST_TOLD = 16; // choices that the server may still answer

class Explorer {
  constructor(root, data, send, start) {
    Object.assign(this, { root, send, query: data.query, hover: null, pinned: null, told: [], given: JSON.stringify(data.at), reporting: null });
    this.trace = new Trace(data);
    Object.assign(this, this.place(data.at ?? start));
    this.strip = new Strip(this);
    this.strip.turnTo(...this.strip.windowAround(this.token));
    if (data.live) return this.buildStripAlone();
    this.build(data);
    beforeLeaving(() => this.isShown(), () => this.reportNow());
  }

  // Where the trace has that layer and that token; else its beginning.
  place(at) {
    const layer = at ? this.trace.layers.indexOf(at[0]) : 0;
    return { layer: Math.max(0, layer), token: at ? clamped(at[1], this.trace.T - 1) : 0 };
  }

  build(data) {
    this.bar = new Bar(this);
    this.findings = new Findings(this);
    this.map = new LayerMap(this, data);
    this.table = new Table(this);
    this.card = new Card(this);
    this.said = make("div", "said", "", { "aria-live": "polite" });
    this.notice = make("div", "notice", "", { role: "status" });
    const head = make("div", "head");
    holding(head, make("strong", "", `Every ${this.trace.word}`), this.said, this.map.toggle);
    const tokens = holding(make("div", "tokens"), this.strip.box, this.strip.pages);
    const picture = holding(make("div", "picture"), this.map.box, this.table.box);
    this.root.replaceChildren(this.bar.box, tokens, this.card.box, this.findings.box, head, picture, this.notice);
    this.findings.fill(data.findings);
    this.draw();
    this.tellTable();
  }

  // Tokens of a run that goes on: its end, to look at.
  buildStripAlone() {
    this.root.replaceChildren(this.strip.box);
    this.strip.draw();
    this.strip.freeze();
  }

  isShown() {
    return this.root.isConnected && this.root.view === this;
  }

  end() {
    this.forgetReport();
    this.bar?.stop();
    this.map?.end();
  }

  // ---- choosing ----

  choose(to) {
    if ("layer" in to) this.bar.stop(); // Play would go on from there
    this.show(to);
  }

  show({ layer = this.layer, token = this.token }) {
    if (this.pinned?.layer !== layer) this.pinned = null;
    const before = this.strip.window;
    Object.assign(this, { layer, token, hover: null }); // what was pointed at may be gone
    this.draw();
    if (before !== this.strip.window) this.map.setBrush();
    this.reportLater(REPORT_MS);
  }

  reportLater(milliseconds) {
    this.forgetReport();
    this.reporting = setTimeout(() => (isLeaving() ? this.reportLater(ANSWERED) : this.reportNow()), milliseconds);
  }

  forgetReport() {
    clearTimeout(this.reporting);
    this.reporting = null;
  }

  // Whether there was something to report.
  reportNow() {
    if (this.reporting === null) return false;
    this.forgetReport();
    this.report();
    return true;
  }

  here() {
    return [this.trace.layers[this.layer], this.token];
  }

  report() {
    if (!this.isShown()) return;
    this.told = [...this.told, JSON.stringify(this.here())].slice(-MOST_TOLD);
    this.send("at", [...this.here(), this.trace.data.id]);
    this.tellTable();
  }

  tellTable() {
    this.table.draw();
  }

  // ---- what the server says ----

  // A rerun with the same trace: nothing is built anew. A place that it names is followed, unless it only repeats what it
  // was told, or what it said before.
  renew(data, send) {
    this.send = send;
    if (data.live) return;
    this.findings.fill(data.findings);
    if (JSON.stringify(this.query) !== JSON.stringify(data.query)) this.relink(data.query);
    const given = JSON.stringify(data.at);
    const heard = this.told.indexOf(given);
    if (heard >= 0) this.told.splice(0, heard);
    else if (data.at && given !== this.given) this.follow(data.at);
    this.given = given;
    this.map.draw(); // of another colour, maybe
  }

  follow(at) {
    this.forgetReport();
    this.bar.stop();
    Object.assign(this, this.place(at), { pinned: null, told: [] });
    this.draw();
    this.map.setBrush();
    this.tellTable();
  }

  relink(query) {
    this.query = query;
    this.bar.drawn = null;
    this.draw();
  }

  // ---- experts ----

  // The expert whose tokens stay bright while all others grow pale.
  get hot() {
    return this.hover ?? this.pinned;
  }

  heat(hover) {
    this.hover = hover;
    this.strip.draw();
    this.map.draw();
  }

  // Turn an <a> into the way to an expert's page: a real link, which the browser may open in a tab.
  linkTo(layer, expert, made) {
    const own = this.trace.layers[layer];
    made.setAttribute("href", `expert?${new URLSearchParams({ ...this.query, layer: own, expert })}`);
    made.onclick = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button) return; // the browser's own
      event.preventDefault();
      this.forgetReport();
      this.send("open", { expert: [own, expert], at: this.here(), id: this.trace.data.id });
    };
    made.onpointerenter = made.onfocus = () => this.heat({ layer, expert });
    made.onpointerleave = made.onblur = () => this.heat(null);
    return made;
  }

  link(layer, expert, className, text) {
    const name = `Expert ${expert} of ${this.trace.nameOfLayer(layer)}: open its page`;
    const style = painted(this.trace.colour(layer, expert));
    return this.linkTo(layer, expert, make("a", className, text, { title: name, style }));
  }

  // ---- drawing ----

  draw() {
    this.bar.draw();
    this.strip.draw();
    this.map.draw();
    this.card.draw();
    this.say();
  }

  // What is chosen, or pointed at, in words.
  say(layer = this.layer, token = this.token) {
    if (this.said) this.said.textContent = this.trace.sentence(layer, token);
  }
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".explorer");
  const send = (name, value) => (name === "open" ? setTriggerValue : setStateValue)(name, value);
  const before = root.view;
  if (before?.trace.data.id === data.id) before.renew(data, send);
  else {
    before?.end();
    root.view = null;
    root.view = new Explorer(root, data, send, null);
  }
  root.classList.toggle("live", data.live);
  listen(root, data);
}

// The prompt box tells, while somebody types, whether its text is no longer that of the trace.
function listen(root, data) {
  if (root.heard) window.removeEventListener("moeviz:stale", root.heard);
  root.heard = ({ detail }) => {
    root.changed = detail;
    dim(root, data);
  };
  if (!data.live) window.addEventListener("moeviz:stale", root.heard);
  dim(root, data);
}

function dim(root, data) {
  const stale = data.stale || (root.changed === true && !data.live);
  root.classList.toggle("stale", stale);
  if (root.view.notice) root.view.notice.textContent = stale ? STALE : "";
}
