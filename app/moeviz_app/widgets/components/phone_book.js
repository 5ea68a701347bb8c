// The phone book: the same names in three networks, as they learn. It holds what ships; a run that is trained now comes
// by `moeviz:taught`, and is asked for by `moeviz:teach`.

const MOMENT = 85; // ms of a recorded step, as it is played
const STILL = [5, 700]; // where motion is reduced: so many states, and ms of each
const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const TITLES = { 2: "Dense network", 8: "8 experts, 2 a name", 32: "32 experts, 2 a name" };
const SPOKEN = { 2: "the dense network", 8: "8 experts", 32: "32 experts" };
const MARKS = /\*\*(.+?)\*\*|\[(.+?)\]\((https:[^)]+)\)/g;

// Words of ours, with **strong** ones and [links](https://…).
function said(place, words) {
  if (place.words === words) return; // whoever listens to the page hears what is new
  place.words = words;
  const parts = [];
  let from = 0;
  for (const { 0: all, 1: strong, 2: linked, 3: href, index } of words.matchAll(MARKS)) {
    parts.push(words.slice(from, index), strong ? make("b", "", strong) : make("a", "", linked, { href, target: "_blank", rel: "noopener" }));
    from = index + all.length;
  }
  place.replaceChildren(...parts, words.slice(from));
}

class Book {
  constructor(root, data) {
    this.names = data.first.length * data.second.length;
    this.runs = Object.fromEntries(Object.entries(data.runs).map(([name, run]) => [name, opened(run, this.names)]));
    Object.assign(this, { root, data, task: "book", at: this.runs["book-2"].lastAt, own: null, asked: null, timer: 0 });
    this.lead = make("p", "lead");
    this.say = make("p", "say", null, { "aria-live": "polite" });
    this.tabs = Object.entries(data.tabs).map(([tab, title]) => [tab, button("tab", title, null, () => this.turn(tab))]);
    this.play = button("play", "", null, () => (this.timer ? this.stop() : this.begin()));
    this.slider = make("input", "", null, { type: "range", min: 0, max: this.at, "aria-label": "How far they have learned" });
    this.slider.oninput = () => this.show(Number(this.slider.value));
    this.slider.onkeydown = (event) => event.stopPropagation(); // Streamlit has hotkeys of its own
    this.step_ = make("output");
    this.arms = [2, 8, 32].map((experts) => new Arm(this, experts, TITLES[experts]));
    this.bars = this.drawBars();
    const tabs = holding(make("div", "tabs", null, { role: "group", "aria-label": "What they learn" }), ...this.tabs.map(([, made]) => made));
    this.player = holding(make("div", "player"), this.play, this.slider, this.step_);
    this.stage = holding(make("div", "stage"), holding(make("div", "arms"), ...this.arms.map(({ card }) => card)), this.bars);
    const head = holding(make("div", "head"), make("h2", "", "Why experts?"), this.lead);
    root.replaceChildren(head, holding(make("div", "row"), tabs, this.player), this.stage, this.say);
    this.openArm(this.arms[2]);
    this.turn("book");
  }

  // What is on screen.

  runOf(name) {
    return this.own?.name === name && this.own.run ? this.own.run : this.runs[name];
  }

  // Of a book, the names that were learned; of a rule, those that were not.
  has(name) {
    return this.runs[`${this.task}-2`].isSeen(name) === (this.task === "book");
  }

  words(name) {
    const { first, second } = this.data;
    return [first[Math.floor(name / second.length)], second[name % second.length]];
  }

  turn(tab) {
    this.stop();
    this.tab = tab;
    if (tab !== "controls") this.task = tab;
    this.name = this.telling();
    this.at = Number(this.slider.max);
    for (const [name, made] of this.tabs) made.setAttribute("aria-pressed", String(name === tab));
    this.stage.classList.toggle("controls", tab === "controls");
    this.player.hidden = tab === "controls";
    said(this.lead, this.data.leads[tab]);
    this.draw();
  }

  // A name that tells the networks apart.
  telling() {
    const last = (experts, name) => this.runs[`${this.task}-${experts}`].isRight(Number(this.slider.max), name);
    const tells = this.task === "book" ? (name) => last(32, name) && !last(8, name) && !last(2, name) : (name) => last(2, name) && !last(32, name);
    const names = [...Array(this.names).keys()].filter((name) => this.has(name));
    return names.find((name) => name > this.names / 4 && tells(name)) ?? names[0];
  }

  choose(name) {
    if (name < 0 || name === this.name || !this.has(name)) return;
    this.name = name;
    this.draw();
  }

  step(event, row) {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    let name = this.name + by;
    while (name >= 0 && name < this.names && !this.has(name)) name += by;
    if (name < this.names) this.choose(name);
  }

  openArm(arm) {
    for (const other of this.arms) other.card.classList.toggle("open", other === arm);
  }

  show(at) {
    this.stop();
    this.at = at;
    this.draw();
  }

  // Play what was recorded.

  begin() {
    const [states, moment] = stillness.matches ? STILL : [this.runs["book-2"].steps.length, MOMENT];
    const last = Number(this.slider.max);
    let state = 0;
    const next = () => {
      this.at = Math.round((last * state) / (states - 1));
      state += 1;
      if (state === states || !this.root.isConnected) this.stop();
      this.draw();
    };
    this.timer = setInterval(next, moment);
    next();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
  }

  // Train a network now.

  tell(what) {
    this.asked = what;
    window.dispatchEvent(new CustomEvent("moeviz:teach", { detail: what }));
    this.draw();
  }

  ask(arm) {
    this.stop();
    this.tell(this.own?.name === arm.name && this.own.going ? "stop" : arm.name);
  }

  hear(told) {
    this.asked = null;
    const wasGoing = this.own?.going;
    const isNew = told.going && !wasGoing;
    this.own = told.name === null ? null : { ...told, run: told.run && opened(told.run, this.names) };
    if (isNew && this.tab !== told.name.split("-")[0]) this.turn(told.name.split("-")[0]);
    if (told.going) {
      this.stop();
      this.at = this.own.run?.lastAt ?? 0;
    } else if (wasGoing) this.at = Number(this.slider.max);
    this.draw();
  }

  // Draw.

  draw() {
    if (this.tab === "controls") return said(this.say, this.data.says.controls);
    const { steps } = this.runs["book-2"];
    this.slider.value = this.at;
    this.slider.setAttribute("aria-valuetext", `step ${steps[this.at].toLocaleString("en")}`);
    this.step_.textContent = `step ${steps[this.at].toLocaleString("en")} of ${steps.at(-1).toLocaleString("en")}`;
    this.play.textContent = this.timer ? "■ Stop" : "▸ Watch them learn";
    this.slider.disabled = this.play.disabled = Boolean(this.own?.going);
    for (const arm of this.arms) arm.draw();
    said(this.say, `**${this.words(this.name).join(" ")}**: ${this.knowing()}. ${this.data.says[this.task]}`);
  }

  knowing() {
    const who = this.arms.filter((arm) => arm.knows(this.name)).map(({ experts }) => SPOKEN[experts]);
    const verb = this.task === "book" ? ["knows", "know"] : ["gets", "get"];
    const rest = this.task === "book" ? "it" : "it right";
    if (!who.length) return `none of the three ${verb[0]} ${rest}`;
    if (who.length === 3) return `all three ${verb[1]} ${rest}`;
    return `${who.length === 1 ? "only " : ""}${listed(who)} ${verb[Number(who.length > 1 || who[0] !== SPOKEN[2])]} ${rest}`;
  }

  drawBars() {
    const groups = this.data.bars.map(({ title, rows }) => {
      const drawn = rows.map(({ name, share: value, best, range, sparse }) => {
        const fill = make("i", sparse ? "sparse" : "");
        fill.style.width = `${100 * value}%`;
        const bar = holding(make("span", "bar"), fill);
        if (best - value > 0.01) bar.append(make("u", "", null, { style: `left: ${100 * best}%`, title: `at its best step: ${share(best)}` }));
        return holding(make("div", "one"), make("span", "", name), bar, make("span", "figure", share(value)), make("span", "range", range));
      });
      return holding(make("div", "group"), make("h3", "", title), ...drawn);
    });
    return holding(make("div", "bars"), ...groups);
  }
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".book");
  root.book ??= new Book(root, data);
  const hear = ({ detail }) => root.book.hear(detail);
  if (root.heard) window.removeEventListener("moeviz:taught", root.heard);
  window.addEventListener("moeviz:taught", (root.heard = hear));
  window.dispatchEvent(new CustomEvent("moeviz:teach", { detail: null }));
  return () => window.removeEventListener("moeviz:taught", hear);
}
