// The likeliest next tokens, as bars; and a sentence about them.

// What is no more than a share is under this: rounded to the nearest percent, it might be above it.
const above = (share) => `${Math.floor(100 * share) + 1}%`;

class Next {
  constructor(explorer) {
    this.explorer = explorer;
    this.title = make("strong", "", "");
    this.back = button("more", "Bring back", "Bring the muted experts back", () => explorer.setMutes([]));
    this.rows = Array.from({ length: AFTER }, () => this.row());
    this.words = make("p", "told", "", { "aria-live": "polite" });
    this.bars = holding(make("div", "bars"), ...this.rows.map(({ row }) => row));
    this.box = holding(make("div", "next"), holding(make("div", "who"), this.title, this.back), this.bars, this.words);
  }

  row() {
    const parts = { text: make("bdi", "text"), now: make("i"), was: make("u"), p: make("span", "p") };
    const row = holding(make("div", "bar-row"), parts.text, holding(make("span", "groove"), parts.now, parts.was), parts.p);
    return { row, ...parts };
  }

  draw() {
    const { trace, token, mutes } = this.explorer;
    const next = trace.next;
    this.title.textContent = mutes.length ? `Next token ${this.explorer.without()}` : next ? "Likeliest next tokens" : "Next tokens";
    this.back.hidden = !mutes.length;
    this.bars.hidden = !next;
    if (next) this.fill(this.besideBefore(next.after(token)), this.before());
    this.words.textContent = this.told();
    this.box.hidden = !next && !this.words.textContent;
  }

  // What they were without the mutes.
  before() {
    const { trace, token } = this.explorer;
    return trace.now === trace.plain ? null : (trace.plain.next?.after(token) ?? null);
  }

  // The token that was the likeliest stays in sight: what is left of it is less than the last of the five has.
  besideBefore(list) {
    const likeliest = this.before()?.[0];
    if (!likeliest || list.some(({ text }) => text === likeliest.text)) return list;
    return [...list.slice(0, AFTER - 1), { text: likeliest.text, p: null, most: list.at(-1).p }];
  }

  fill(list, before = null) {
    const goesOn = this.goesOn();
    this.rows.forEach(({ row, text, now, was, p }, at) => {
      const one = list[at];
      row.hidden = !one;
      if (!one) return;
      text.textContent = one.text;
      text.classList.toggle("true", one.text === goesOn);
      now.style.width = `${100 * (one.p ?? 0)}%`;
      p.textContent = one.p === null ? `<${above(one.most)}` : percent(one.p);
      const had = before?.find(({ text: own }) => own === one.text);
      was.hidden = !had;
      if (had) was.style.width = `${100 * had.p}%`;
    });
  }

  // The text of the token that follows; null at the end of a text.
  goesOn() {
    const { trace, token } = this.explorer;
    return token + 1 < trace.T && trace.isNextTo(token + 1) ? trace.data.texts[token + 1] : null;
  }

  told() {
    const { explorer } = this;
    const { trace, token } = explorer;
    if (explorer.isWaiting()) return "The model runs without it …";
    if (explorer.mutes.length && trace.now !== trace.plain) return this.toldOfMutes();
    if (!trace.next) return explorer.whyNoNext;
    const said = explorer.canMute ? " Click an expert to mute it." : "";
    const list = trace.next.after(token);
    return this.follows(list) + (list.length ? said : "");
  }

  // Says whether the token that does follow is one of these.
  follows(list) {
    const goesOn = this.goesOn();
    if (!list.length) return `Nothing is recorded after this ${this.explorer.trace.item}.`;
    if (goesOn === null) return "Here the text ends.";
    const place = list.findIndex(({ text }) => text === goesOn);
    if (place < 0) return `The text goes on with “${goesOn}”, which is not among these five.`;
    if (!place) return `The text goes on with “${goesOn}” (bold).`;
    return `The text goes on with “${goesOn}” (bold), given ${percent(list[place].p)}.`;
  }

  toldOfMutes() {
    const { trace, token } = this.explorer;
    const moved = trace.movedCount();
    const choices = trace.data.ordered ? ` ${moved} of ${trace.L * trace.T} first choices change${moved ? " (orange dots)" : ""}.` : "";
    const [now, before] = [trace.next?.after(token), trace.plain.next?.after(token)];
    if (!now?.length || !before?.length) return choices.trim();
    const [likeliest, p] = [before[0].text, now.find(({ text }) => text === before[0].text)?.p];
    const fell = p === undefined ? `under ${above(now.at(-1).p)}` : percent(p);
    const other = now[0].text === likeliest ? "" : ` Now “${now[0].text}” is likeliest.`;
    return `“${likeliest}”: ${percent(before[0].p)} → ${fell}.${other}${this.unused()}${choices} Dashed: as it was.`;
  }

  unused() {
    const { trace, token, mutes } = this.explorer;
    const used = mutes.some(([layer, expert]) => trace.has(layer, token, expert, trace.plain));
    return used ? "" : ` This ${trace.item} itself did not use ${mutes.length > 1 ? "them" : "it"}, but earlier ones may have.`;
  }
}
