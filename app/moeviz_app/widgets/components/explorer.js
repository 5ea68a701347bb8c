// Strip, findings, map and card of one trace. What is chosen lives here, so a choice is drawn at once; the server hears of
// it a moment later.

const STALE = "What you ask for has changed. Run draws it anew.";
const REPORT_MS = 150; // keys that are held are one choice
const MOST_TOLD = 16; // choices that the server may still answer
const TRIGGERS = ["open", "decide", "direct"]; // what is asked once

class Explorer {
  constructor(root, data, send, start) {
    Object.assign(this, { root, send, query: data.query, hover: null, pinned: null, told: [], given: JSON.stringify(data.at), reporting: null });
    this.trace = new Trace(data);
    this.mutes = []; // places of layers, and experts, that somebody wants muted
    this.asked = data.answered ?? 0; // so often for other mutes
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
    this.learn(data);
    this.player = new Player(this);
    this.decided = new Decided(this);
    this.decided.learn(data.decided ?? null, data.canDecide ?? false);
    this.bar = new Bar(this, data.direct ?? null);
    this.legend = new Legend(this);
    this.findings = new Findings(this);
    this.map = new LayerMap(this, data); // with the mutes that it begins with
    this.card = new Card(this);
    this.said = make("div", "said", "", { "aria-live": "polite" });
    this.notice = make("div", "notice", "", { role: "status" });
    const head = make("div", "head");
    holding(head, make("strong", "", `Every ${this.trace.word}`), this.said, this.map.toggle);
    const tokens = holding(make("div", "tokens"), this.decided.words, this.strip.box, this.strip.pages);
    const picture = holding(make("div", "picture"), this.map.box);
    const parts = [this.bar.box, tokens, this.card.box, this.legend.box, head, picture, this.findings.box];
    this.root.replaceChildren(...parts, this.notice, this.player.flying);
    this.root.onkeydown = (event) => this.onKey(event);
    this.findings.fill(data.findings);
    this.draw();
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
    this.player?.stop();
    this.map?.end();
  }

  // ---- choosing ----

  choose(to) {
    this.player.stop();
    this.show(to);
  }

  // Quietly: while it plays, the server is told at the end.
  show({ layer = this.layer, token = this.token }, quietly = false) {
    if (this.pinned?.layer !== layer) this.pinned = null;
    const before = this.strip.window;
    Object.assign(this, { layer, token, hover: null }); // what was pointed at may be gone
    this.draw();
    if (before !== this.strip.window) this.map.setBrush();
    if (!quietly) this.reportLater(REPORT_MS);
  }

  // Streamlit has hotkeys of its own.
  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "p") this.player.button.click();
    else if (event.key === "Escape" && this.player.playing) this.player.stop();
    else if (event.key === "Escape" && this.mutes.length) this.setMutes([]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  reportLater(milliseconds) {
    this.forgetReport();
    this.reporting = setTimeout(() => (isLeaving() ? this.reportLater(ANSWERED) : tellAlone(() => this.reportNow())), milliseconds);
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
  }

  // ---- what the server says ----

  // A rerun with the same trace: nothing is built anew. A place that it names is followed, unless it only repeats what it
  // was told, or what it said before.
  renew(data, send) {
    this.send = send;
    if (data.live) return;
    this.learn(data);
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
    this.player.stop();
    Object.assign(this, this.place(at), { pinned: null, told: [] });
    this.draw();
    this.map.setBrush();
  }

  relink(query) {
    this.query = query;
    this.draw();
  }

  // ---- muted experts ----

  // What else the server says of this trace. Its word on the mutes is the last, once it has heard of the last press.
  learn(data) {
    Object.assign(this, { canMute: data.canMute ?? false, mostMutes: data.mostMutes ?? 0, whyNoNext: data.whyNoNext ?? "" });
    this.trace.names = data.names ?? null;
    this.decided?.learn(data.decided ?? null, data.canDecide ?? false);
    this.bar?.learn(data.direct ?? null);
    if ((data.answered ?? 0) !== this.asked) return;
    const wanted = (data.mutes ?? []).map(([layer, expert]) => [this.trace.layers.indexOf(layer), expert]);
    const key = JSON.stringify([wanted, Boolean(data.muted)]);
    if (this.learnt === key && JSON.stringify(this.mutes) === JSON.stringify(wanted)) return;
    this.learnt = key;
    this.mutes = wanted;
    this.remute(data.muted ?? null);
  }

  remute(muted) {
    this.trace.mute(muted);
    if (!this.card) return; // nothing is drawn yet
    this.strip.drawn = null;
    this.findings.box.hidden = Boolean(muted) || !this.findings.box.childElementCount; // they are of the plain run
    this.map.refill(muted);
    this.draw();
  }

  isMuted(layer, expert) {
    return this.mutes.some((mute) => mute[0] === layer && mute[1] === expert);
  }

  mutedAt(layer) {
    return this.mutes.filter((mute) => mute[0] === layer).map((mute) => mute[1]);
  }

  // Whether the model still runs without them.
  isWaiting() {
    return JSON.stringify(this.mutes) !== JSON.stringify(this.trace.mutes);
  }

  // An expert that the chosen token has only because of the mutes.
  isNew(layer, expert) {
    const { trace, token } = this;
    return trace.now !== trace.plain && !trace.has(layer, token, expert, trace.plain);
  }

  without() {
    const { trace, mutes } = this;
    if (mutes.length > 2) return `without ${mutes.length} experts`;
    return `without ${listed(mutes.map(([layer, expert]) => `expert ${expert} of ${trace.nameOfLayer(layer)}`))}`;
  }

  // A press on a glass.
  press(layer, expert) {
    if (!this.canMute) return this.choose({ layer });
    const kept = this.mutes.filter((mute) => mute[0] !== layer || mute[1] !== expert);
    if (kept.length < this.mutes.length) this.setMutes(kept, layer);
    else this.setMutes([...kept, [layer, expert]].slice(-this.mostMutes), layer);
  }

  setMutes(mutes, layer = this.layer) {
    this.player.stop();
    Object.assign(this, { mutes, layer, hover: null });
    this.asked += 1;
    if (!mutes.length) this.remute(null);
    else this.draw();
    this.forgetReport();
    this.report(); // one message, with the mutes
    const own = mutes.map(([at, expert]) => [this.trace.layers[at], expert]);
    this.send("mutes", { mutes: own, asked: this.asked, id: this.trace.data.id });
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
    made.setAttribute("href", `${this.trace.data.expertPage ?? "expert"}?${new URLSearchParams({ ...this.query, layer: own, expert })}`);
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

  // ---- drawing ----

  draw() {
    this.bar.draw();
    this.strip.draw();
    this.legend.draw();
    this.map.draw();
    this.card.draw();
    this.decided.draw();
    this.say();
  }

  // What is pointed at, in words. What is chosen has its path.
  say(layer = null, token = this.token) {
    if (this.said) this.said.textContent = layer === null ? "" : this.trace.sentence(layer, token);
  }
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".explorer");
  const send = (name, value) => (TRIGGERS.includes(name) ? setTriggerValue : setStateValue)(name, value);
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
