// Which word decided: moeviz/analyses/occlusion.py, in the shape of `compact` in app/moeviz_app/jobs/reread.py.
import { base64 } from "./packed.js";

const NONE = 255; // in place of an expert

// `goesOn` is asked before each reading: whether it is still wanted; then the cache holds what it held.
export async function decided(model, tokenizer, { ids, texts, most }, goesOn) {
  const { L, E, K } = model, T = ids.length;
  const fillers = fillersOf(tokenizer, texts, most);
  const flips = new Uint8Array(L * T * T), falls = new Float64Array(L * T * T), to = new Uint8Array(L * T * T).fill(NONE);
  const plain = model.read(ids);
  const first = (found, n, layer, at) => found.experts[(layer * n + at) * K];
  const places = ids.map((_, at) => at).slice(0, -1).filter((at) => !tokenizer.added.has(tokenizer.names[ids[at]])).reverse();
  let done = 0;
  for (const by of places) {
    const others = [...fillers.keys()].filter((id) => id !== ids[by]).slice(0, most), n = T - by;
    const sent = [];
    for (const other of others) {
      if (!(await goesOn(done++, places.length * most))) return null;
      model.length = by;
      const found = model.read([other, ...ids.slice(by + 1)]);
      sent.push(found);
      for (let layer = 0; layer < L; layer++)
        for (let at = 1; at < n; at++) {
          const own = first(plain, T, layer, by + at), cell = (layer * T + by + at) * T + by;
          flips[cell] += first(found, n, layer, at) !== own;
          falls[cell] += (score(plain.logits, (layer * T + by + at) * E, E, own) - score(found.logits, (layer * n + at) * E, E, own)) / others.length;
        }
    }
    for (let layer = 0; layer < L; layer++)
      for (let at = 1; at < n; at++) {
        const went = mostOf(sent.map((found) => first(found, n, layer, at)), first(plain, T, layer, by + at));
        const cell = (layer * T + by + at) * T + by;
        to[cell] = went;
        flips[cell] = Math.round((most * flips[cell]) / others.length);
      }
  }
  const thousandths = Int16Array.from(falls, (fall) => Math.round(fall * 1000));
  return { layers: L, tokens: T, wide: false, fillers: [...fillers.values()], flips: base64(flips), falls: base64(thousandths), to: base64(to) };
}

// Tokens that may stand in, one more than are used of any token: id and text.
function fillersOf(tokenizer, texts, most) {
  const found = new Map();
  for (const text of texts) {
    const id = tokenizer.encode(text).slice(tokenizer.start.length).at(-1);
    if (found.size <= most && !found.has(id)) found.set(id, tokenizer.texts([id])[0]);
  }
  return found;
}

function score(logits, from, E, expert) {
  let sum = 0;
  for (let e = 0; e < E; e++) sum += Math.exp(logits[from + e] - logits[from + expert]);
  return 1 / sum;
}

// Of the experts that are not the first choice, the one that comes most often, the first of several.
function mostOf(sent, first) {
  const votes = sent.map((expert) => (expert === first ? 0 : sent.filter((other) => other === expert).length));
  const most = Math.max(...votes);
  return most ? sent[votes.indexOf(most)] : NONE;
}
