// A trace as the explorer reads it: what app/moeviz_app/widgets/components/explorer.py makes in Python. What both need is in
// `made`, which the docs' build writes (docs/_ext/try_page.py).

export class Packer {
  constructor(made) {
    this.made = made;
    this.unseen = new RegExp(`[${made.unseen.map((category) => `\\p{${category}}`).join("")}]`, "u");
    this.combining = new RegExp(`^[${made.combining.map((category) => `\\p{${category}}`).join("")}]`, "u");
    this.part = new RegExp(`^${made.part}$`, "u");
    this.special = new RegExp(`^(?:${made.special})$`, "u");
    const blank = `[${made.blanks.map((code) => `\\u{${code.toString(16)}}`).join("")}]`;
    this.ends = new RegExp(`^${blank}+|${blank}+$`, "gu");
  }

  packed(trace, id) {
    const { made } = this;
    const { texts, prompt, L, E, K } = trace, T = texts.length;
    const shown = texts.map((text) => this.visible(text));
    return {
      texts: shown,
      signs: {}, // of images, which no text here has
      folded: [],
      leading: [...texts, ""].findIndex((text) => !this.special.test(text)),
      parts: texts.flatMap((text, i) => (this.part.test(text) ? [i] : [])),
      newlines: base64(Uint8Array.from(texts, (text) => Math.min(text.split("\n").length - 1, made.mostBreaks))),
      positions: base64(Int32Array.from(texts, (_, i) => i)),
      generated: base64(Uint8Array.from(texts, (_, i) => i >= prompt)),
      sequences: null,
      marks: prompt < T ? { [prompt]: "generated" } : {},
      ...made.model,
      places: base64(Uint8Array.from({ length: L * E }, (_, i) => i % E)),
      ...this.routing(trace),
      spec: { chart: this.map(texts, shown, prompt), images: false, overview: null },
      instead: null,
      id,
    };
  }

  // Of the same tokens, with experts muted or not.
  routing(trace) {
    const { experts, weights, next, lens } = trace;
    return { experts: base64(experts), weights: base64(weights), scores: base64(this.scores(trace)), next: this.next(next, lens) };
  }

  scores({ logits, E }) {
    const found = new Uint16Array(logits.length);
    for (let from = 0; from < logits.length; from += E) {
      const row = logits.subarray(from, from + E), most = Math.max(...row);
      const parts = Array.from(row, (logit) => Math.exp(logit - most)), sum = parts.reduce((a, b) => a + b);
      parts.forEach((part, e) => (found[from + e] = Math.round((part / sum) * this.made.steps)));
    }
    return found;
  }

  // Likeliest next tokens: { id, text, p }, five a token, and five for each layer and token of the lens.
  next(next, lens) {
    const places = new Map(), texts = [];
    const of = ({ id, text }) => {
      if (!places.has(id)) places.set(id, texts.push(this.visible(text)) - 1);
      return places.get(id);
    };
    const both = (lists) => [base64(Int32Array.from(lists.flat(), of)), base64(Float32Array.from(lists.flat(), ({ p }) => p))];
    const [ids, p] = both(next), [lensIds, lensP] = lens ? both(lens) : [null, null];
    return { texts, ids, p, lensIds, lensP };
  }

  // moeviz/metrics/tokens.py
  visible(text) {
    const { shownAs } = this.made;
    const inside = text.replace(/^ +| +$/g, "");
    if (!inside) return shownAs[" "].repeat(text.length) || "∅";
    const before = text.length - text.replace(/^ +/, "").length, after = text.length - before - inside.length;
    const named = (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
    const shown = [...inside].map((c) => (c === " " ? c : (shownAs[c] ?? (this.unseen.test(c) ? named(c) : c)))).join("");
    return shownAs[" "].repeat(before) + (this.combining.test(inside) ? "◌" : "") + shown + shownAs[" "].repeat(after);
  }

  // moeviz/charts/token_layer_map.py's `map_spec`: one of a few charts, and what this trace brings.
  map(texts, shown, prompt) {
    const { maps, letters } = this.made, T = texts.length;
    const chart = structuredClone(maps.find(({ upTo }) => upTo === null || T <= upTo).chart);
    const named = (name) => ([...name].length <= letters ? name : `${[...name].slice(0, letters - 1).join("")}…`);
    const known = { tokens: T, names: shown.map(named), positions: shown.map((_, i) => i) };
    for (const param of chart.params) if (param.name in known) param.value = known[param.name];
    if (T <= this.made.lined) chart.datasets.lines = this.lines(texts, prompt);
    chart.datasets.beginnings = prompt < T ? [{ place: prompt - 0.5 }] : [];
    return chart;
  }

  lines(texts) {
    const lines = [];
    let start = 0;
    texts.forEach((text, at) => {
      if (!text.includes("\n") && at < texts.length - 1) return;
      const words = whole(texts.slice(start, at + 1).filter((word) => !this.special.test(word)), this.part);
      const line = words.join("").replace(this.ends, "");
      const shown = line && [...this.visible(line)].slice(0, this.made.lineLetters).join("");
      lines.push({ start: start - 0.5, end: at + 0.5, line: shown });
      start = at + 1;
    });
    return lines;
  }
}

// A character that is split over several tokens as one where all its parts are there.
function whole(texts, part) {
  const found = [];
  for (let at = 0; at < texts.length; ) {
    const first = part.exec(texts[at]), many = Number(first?.[3] ?? 1);
    const isWhole = first?.[2] === "1" && Array.from({ length: many }, (_, i) => `⟨${first[1]} ${i + 1}/${many}⟩`).every((text, i) => text === texts[at + i]);
    found.push(isWhole ? first[1] : texts[at]);
    at += isWhole ? many : 1;
  }
  return found;
}

export function base64(array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let letters = "";
  for (let at = 0; at < bytes.length; at += 8192) letters += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(letters);
}
