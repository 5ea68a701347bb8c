// The model, off the page's own thread. In: { open }, then { run }, { mute } or { decide }. Out: progress, ready, and the
// answer under the name of what was asked, with its number; or why there is none.
import { Mixtral } from "./model.js";
import { Tokenizer } from "./tokenizer.js";
import { decided } from "./decided.js";

const ALLOWED = { run, mute, decide };
let tokenizer, model, ready, asked = 0; // asked: the last run
let holder = null; // whose tokens the model's cache holds

async function open({ folder, plain }) {
  const at = (name) => fetched(new URL(name, folder));
  const [config, file, code, bytes] = await Promise.all([at("config.json").then((answer) => answer.json()), at("tokenizer.json").then((answer) => answer.json()), simd(plain), weights(await at("model.safetensors"))]);
  tokenizer = new Tokenizer(file);
  model = await Mixtral.open(config, bytes, code);
  postMessage({ ready: { how: code ? "WebAssembly" : "JavaScript" } });
}

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`the server answers ${answer.status} to ${url.pathname}`);
  return answer;
}

async function simd(plain) {
  try {
    const code = plain ? null : await (await fetched(new URL("kernels.wasm", import.meta.url))).arrayBuffer();
    return code && WebAssembly.validate(code) ? code : null; // false where there is no SIMD
  } catch {
    return null;
  }
}

// A server may pack the file on its way: its content-length is then another, so the file's own header says how long it is.
async function weights(answer) {
  let bytes = new Uint8Array(1 << 20), at = 0, total = null;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > bytes.length) {
      const larger = new Uint8Array(Math.max(total ?? 0, at + value.length, 2 * at));
      larger.set(bytes.subarray(0, at));
      bytes = larger;
    }
    bytes.set(value, at);
    at += value.length;
    total ??= lengthOf(bytes, at);
    if (total) postMessage({ progress: at / total });
  }
  if (at !== total) throw new Error("its file is not whole");
  return bytes.subarray(0, at);
}

function lengthOf(bytes, got) {
  const header = got < 8 ? Infinity : Number(new DataView(bytes.buffer).getBigUint64(0, true));
  if (got < 8 + header) return null;
  const named = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + header)));
  return 8 + header + Math.max(...Object.values(named).map(({ data_offsets }) => data_offsets?.[1] ?? 0));
}

onmessage = async ({ data }) => {
  if (data.open) {
    ready = open(data.open);
    return ready.catch((error) => postMessage({ failed: `The model could not be loaded: ${error.message}.` }));
  }
  const [[name, act]] = Object.entries(ALLOWED).filter(([name]) => name in data);
  if (name === "run") asked = data.number;
  try {
    await ready;
    const answer = await act(data);
    if (answer) postMessage({ [name]: answer, number: data.number });
  } catch (error) {
    postMessage({ refused: error.message, of: name, number: data.number });
  }
};

const listen = () => new Promise((go) => setTimeout(go)); // whether something else is wanted
const named = (lists) => lists.map((list) => list.map(({ id, p }) => ({ id, p, text: tokenizer.texts([id])[0] })));

// The cache holds these tokens, and no others: somebody else may have used it in between.
function hold(who, ids) {
  if (holder === who) return;
  model.reset();
  if (ids.length) model.read(ids);
  holder = who;
}

// `more` tokens are written: the likeliest, or with a temperature one drawn by a generator that begins at `seed`.
async function run({ run: text, more = 0, temperature = 0, seed = 0, most, number }) {
  const letters = text.length; // pairs of a long word are looked for again and again: not of a book
  if (letters > most * tokenizer.longest) throw new RangeError(`This text has ${letters.toLocaleString("en")} characters, more than ${most} tokens can hold. Shorten it.`);
  const me = {}, ids = tokenizer.encode(text);
  if (ids.length + more > most) throw new RangeError(`This text has ${ids.length} tokens; with ${more} to come, and ${most} can be drawn here. Shorten it.`);
  const chance = chances(seed), states = [];
  hold(me, []);
  const parts = [{ n: ids.length, ...model.read(ids, { seen: (state) => states.push(state) }) }];
  const all = [...ids], next = model.next(0);
  let coming = temperature && more ? model.draw(temperature, chance()) : next.at(-1)[0].id;
  const lens = [states.slice(0, -1).map((state) => model.lens(state))]; // of layers, a list for each token
  for (let i = 0; i < more - 1 && coming !== model.config.eos_token_id; i++) { // the last one written meets no router
    if (i % 8 === 7) await listen();
    if (asked !== number) return null;
    hold(me, all);
    all.push(coming);
    const own = [];
    parts.push({ n: 1, ...model.read([coming], { seen: (state) => own.push(state) }) });
    next.push(...model.next());
    coming = temperature ? model.draw(temperature, chance()) : next.at(-1)[0].id;
    lens.push(own.slice(0, -1).map((state) => model.lens(state)));
  }
  const { L, E, K } = model;
  const byLayer = Array.from({ length: L }, (_, layer) => (layer < L - 1 ? lens.flatMap((part) => part[layer]) : next));
  return { ids: all, texts: tokenizer.texts(all), prompt: ids.length, ended: more > 0 && coming === model.config.eos_token_id, next: named(next), lens: named(byLayer.flat()), ...joined(parts, all.length), L, E, K };
}

// The same tokens where some experts may not be chosen.
function mute({ mute: mutes, ids }) {
  hold({}, []);
  const found = model.read(ids, { mutes });
  return { mutes, next: named(model.next(0)), lens: null, ...found, E: model.E };
}

// Which earlier token decides: each is replaced in turn, the last one first, so that what stands before is still in the cache.
async function decide({ decide: { fillers, most }, ids, number }) {
  const me = {}, run = asked;
  hold(me, []);
  return decided(model, tokenizer, { ids, texts: fillers, most }, async (done, of) => {
    if (done % 16 === 0) {
      postMessage({ deciding: { done, of }, number });
      await listen();
    }
    if (asked !== run) return false;
    hold(me, ids);
    return true;
  });
}

// Arrays by layer, token, and slot or expert, of stretches of tokens.
function joined(parts, T) {
  const { L, E, K } = model;
  const all = { experts: new Int16Array(L * T * K), weights: new Float32Array(L * T * K), logits: new Float32Array(L * T * E) };
  for (const [name, per] of [["experts", K], ["weights", K], ["logits", E]]) {
    let at = 0;
    for (const part of parts) {
      for (let layer = 0; layer < L; layer++) all[name].set(part[name].subarray(layer * part.n * per, (layer + 1) * part.n * per), (layer * T + at) * per);
      at += part.n;
    }
  }
  return all;
}

// Numbers from 0 to 1 that a seed repeats: mulberry32.
function chances(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
