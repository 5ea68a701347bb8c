// A Mixtral in float32 whose weights stay in bfloat16, as the file has them. Matrix products and attention are kernels.wasm's
// (SIMD), or plain JavaScript's on weights widened to float32. What routers decide is recorded as they decide it.

const PAGE = 65536, FIRST = 2 * PAGE; // the compiled code's stack lies below
const align = (n) => (n + 15) & ~15;

export class Mixtral {
  // `bytes`: the file's; `code`: kernels.wasm, or null.
  static async open(config, bytes, code) {
    const odd = config.model_type !== "mixtral" || config.hidden_act !== "silu" || config.sliding_window || !config.tie_word_embeddings ||
      config.rope_parameters.rope_type !== "default";
    if (odd) throw new Error("This config is of a kind that is not read here.");
    const model = new Mixtral();
    model.readHeader(config, bytes);
    if (code) await model.useWasm(bytes, code);
    else model.useJavaScript(bytes);
    model.reset();
    return model;
  }

  readHeader(config, bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const long = Number(view.getBigUint64(0, true));
    this.header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + long)));
    this.dataAt = 8 + long;
    delete this.header.__metadata__;
    if (Object.values(this.header).some(({ dtype }) => dtype !== "BF16")) throw new Error("Weights are read in bfloat16 alone.");
    const c = config;
    Object.assign(this, {
      config, H: c.hidden_size, I: c.intermediate_size, L: c.num_hidden_layers, E: c.num_local_experts, K: c.num_experts_per_tok,
      heads: c.num_attention_heads, kvHeads: c.num_key_value_heads, V: c.vocab_size, context: c.max_position_embeddings, eps: c.rms_norm_eps,
    });
    this.D = c.head_dim ?? this.H / this.heads;
    this.Q = this.heads * this.D;
    this.KV = this.kvHeads * this.D;
  }

  size() { // floats of scratch for `context` tokens
    const { context: T, H, I, Q, KV, L, E, V } = this;
    return { x: T * H, h: T * H, q: T * Q, a: T * Q, o: T * H, in: T * H, g: T * I, u: T * I, r: T * E, s: T, y: 16 * V, keys: L * T * KV, values: L * T * KV };
  }

  async useWasm(bytes, code) {
    const data = bytes.length - this.dataAt;
    let at = FIRST + align(data);
    const floats = {};
    for (const [name, count] of Object.entries(this.size())) (floats[name] = at), (at += align(4 * count));
    const memory = new WebAssembly.Memory({ initial: Math.ceil(at / PAGE) });
    new Uint8Array(memory.buffer).set(bytes.subarray(this.dataAt), FIRST);
    const { instance } = await WebAssembly.instantiate(code, { env: { memory }, js: { exp: Math.exp } });
    const { matmul, attend } = instance.exports;
    const size = this.size();
    for (const name in floats) this[name] = new Float32Array(memory.buffer, floats[name], size[name]);
    this.place = (name) => FIRST + this.header[name].data_offsets[0];
    this.weights = (name) => widened(new Uint8Array(memory.buffer, this.place(name), length(this.header[name])));
    this.matmul = (y, x, name, T, O, I) => matmul(y.byteOffset, x.byteOffset, this.place(name), T, O, I);
    this.attend = (out, q, k, v, n) => attend(out, q, k, v, this.s.byteOffset, n, this.KV, this.D, this.D ** -0.5);
    this.prepare = (array, at) => array.byteOffset + 4 * at;
  }

  useJavaScript(bytes) {
    const kept = new Map();
    const size = this.size();
    for (const name in size) this[name] = new Float32Array(size[name]);
    this.weights = (name) => {
      const [from, to] = this.header[name].data_offsets.map((offset) => this.dataAt + offset);
      if (!kept.has(name)) kept.set(name, widened(bytes.subarray(from, to)));
      return kept.get(name);
    };
    for (const name in this.header) this.weights(name); // widened now, not while somebody waits for an answer
    this.matmul = (y, x, name, T, O, I) => matmul(y, x, this.weights(name), T, O, I);
    this.prepare = (array, at) => array.subarray(at);
    this.attend = (out, q, k, v, n) => attend(out, q, k, v, this.s, n, this.KV, this.D, this.D ** -0.5);
  }

  reset() {
    this.length = 0;
    this.norms = {};
    for (const name in this.header) if (this.header[name].shape.length === 1) this.norms[name] = this.weights(name);
    const half = this.D / 2, f = Math.fround; // as torch rounds them
    this.turns = Float32Array.from({ length: half }, (_, i) => f(1 / f(this.config.rope_parameters.rope_theta ** f((2 * i) / this.D))));
  }

  // Read `ids` after what was read before. What routers decided: experts and weights (L, T, K), logits (L, T, E). No
  // router may choose what is in `mutes`, [layer, expert] each: it takes its next best. `seen` hears what leaves a layer.
  read(ids, { mutes = [], seen = null } = {}) {
    const { L, E, K, H, Q, KV, D, x, h } = this;
    const [T, past] = [ids.length, this.length];
    if (past + T > this.context) throw new RangeError(`${past + T} tokens, and the context holds ${this.context}.`);
    const found = { experts: new Int16Array(L * T * K), weights: new Float32Array(L * T * K), logits: new Float32Array(L * T * E) };
    this.embed(ids);
    for (let layer = 0; layer < L; layer++) {
      const own = `model.layers.${layer}.`;
      this.norm(h, x, own + "input_layernorm.weight", T);
      const start = (layer * this.context + past) * KV;
      const keys = this.keys.subarray(start, start + T * KV), values = this.values.subarray(start, start + T * KV);
      this.matmul(this.q, h, own + "self_attn.q_proj.weight", T, Q, H);
      this.matmul(keys, h, own + "self_attn.k_proj.weight", T, KV, H);
      this.matmul(values, h, own + "self_attn.v_proj.weight", T, KV, H);
      this.turn(this.q, T, past, this.heads);
      this.turn(keys, T, past, this.kvHeads);
      const all = layer * this.context * KV, group = this.heads / this.kvHeads;
      for (let t = 0; t < T; t++)
        for (let head = 0; head < this.heads; head++) {
          const of = all + Math.floor(head / group) * D, mine = t * Q + head * D;
          this.attend(this.prepare(this.a, mine), this.prepare(this.q, mine), this.prepare(this.keys, of), this.prepare(this.values, of), past + t + 1);
        }
      this.matmul(this.o, this.a, own + "self_attn.o_proj.weight", T, H, Q);
      for (let i = 0; i < T * H; i++) x[i] += this.o[i];
      this.norm(h, x, own + "post_attention_layernorm.weight", T);
      const muted = mutes.filter(([at]) => at === layer).map(([, expert]) => expert);
      this.route(own + "block_sparse_moe.", layer, T, found, muted);
      seen?.(x.slice(0, T * H));
    }
    this.norm(h, x, "model.norm.weight", T);
    this.length += T;
    this.last = T;
    return found;
  }

  embed(ids) {
    const { H, x } = this, table = (this.table ??= this.weights("model.embed_tokens.weight"));
    ids.forEach((id, t) => x.set(table.subarray(id * H, id * H + H), t * H));
  }

  norm(to, from, name, T) {
    const { H, eps } = this, w = this.norms[name];
    for (let t = 0; t < T; t++) {
      let sum = 0;
      for (let i = t * H; i < t * H + H; i++) sum += from[i] * from[i];
      const scale = 1 / Math.sqrt(sum / H + eps);
      for (let i = 0; i < H; i++) to[t * H + i] = from[t * H + i] * scale * w[i];
    }
  }

  turn(array, T, past, heads) {
    const half = this.D / 2, f = Math.fround;
    for (let t = 0; t < T; t++)
      for (let i = 0; i < half; i++) {
        const angle = f((past + t) * this.turns[i]), cos = f(Math.cos(angle)), sin = f(Math.sin(angle));
        for (let head = 0; head < heads; head++) {
          const at = (t * heads + head) * this.D + i, a = array[at], b = array[at + half];
          array[at] = a * cos - b * sin;
          array[at + half] = b * cos + a * sin;
        }
      }
  }

  route(own, layer, T, found, muted) {
    const { E, K, H, I, h, r, x } = this;
    this.matmul(r, h, own + "gate.weight", T, E, H);
    const rows = Array.from({ length: E }, () => []);
    for (let t = 0; t < T; t++) {
      const logits = r.subarray(t * E, t * E + E);
      found.logits.set(logits, (layer * T + t) * E);
      const left = [...logits.keys()].filter((expert) => !muted.includes(expert));
      const order = left.sort((a, b) => logits[b] - logits[a] || a - b).slice(0, K);
      const parts = order.map((e) => Math.exp(logits[e] - logits[order[0]])); // a softmax over all, made to sum to 1
      const sum = parts.reduce((a, b) => a + b);
      order.forEach((expert, slot) => {
        const at = (layer * T + t) * K + slot;
        found.experts[at] = expert;
        found.weights[at] = parts[slot] / sum;
        rows[expert].push([t, parts[slot] / sum]);
      });
    }
    rows.forEach((mine, expert) => {
      if (!mine.length) return;
      const name = `${own}experts.${expert}.`, n = mine.length, { g, u, o } = this, input = this.in;
      mine.forEach(([t], i) => input.set(h.subarray(t * H, t * H + H), i * H));
      this.matmul(g, input, name + "w1.weight", n, I, H);
      this.matmul(u, input, name + "w3.weight", n, I, H);
      for (let i = 0; i < n * I; i++) g[i] = (g[i] / (1 + Math.exp(-g[i]))) * u[i];
      this.matmul(o, g, name + "w2.weight", n, H, I);
      mine.forEach(([t, weight], i) => {
        for (let j = 0; j < H; j++) x[t * H + j] += weight * o[i * H + j];
      });
    });
  }

  // A next token drawn at random, as likely as the model finds it at that temperature; `chance` is from 0 to 1.
  draw(temperature, chance) {
    const { H, V, h, y, last } = this;
    this.matmul(y, h.subarray((last - 1) * H, last * H), "model.embed_tokens.weight", 1, V, H);
    const logits = y.subarray(0, V), most = logits.reduce((a, b) => Math.max(a, b));
    const parts = Float64Array.from(logits, (logit) => Math.exp((logit - most) / temperature));
    let left = chance * parts.reduce((a, b) => a + b);
    return Math.max(0, parts.findIndex((part) => (left -= part) < 0));
  }

  // The likeliest next tokens if the model stopped where `states` left a layer: its own norm and head on them.
  lens(states) {
    this.x.set(states);
    this.norm(this.h, this.x, "model.norm.weight", this.last);
    return this.next(0);
  }

  // The likeliest next tokens after each of those last read, from `from` on: a list of { id, p } each.
  next(from = this.last - 1, most = 5) {
    const { H, V, h, y } = this, found = [];
    for (let t = from; t < this.last; t += 16) {
      const n = Math.min(16, this.last - t);
      this.matmul(y, h.subarray(t * H, (t + n) * H), "model.embed_tokens.weight", n, V, H);
      for (let i = 0; i < n; i++) found.push(likeliest(y.subarray(i * V, i * V + V), most));
    }
    return found;
  }
}

function likeliest(logits, most) {
  const top = [];
  for (let id = 0; id < logits.length; id++) {
    if (top.length === most && logits[id] <= logits[top[most - 1]]) continue;
    let at = top.length;
    while (at && logits[id] > logits[top[at - 1]]) at--;
    top.splice(at, 0, id);
    top.length = Math.min(top.length, most);
  }
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id] - logits[top[0]]);
  return top.map((id) => ({ id, p: Math.exp(logits[id] - logits[top[0]]) / sum }));
}

const length = ({ data_offsets: [from, to] }) => to - from;

function widened(bytes) {
  const halves = bytes.byteOffset % 2 ? new Uint16Array(bytes.slice().buffer) : new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = halves[i] << 16;
  return new Float32Array(bits.buffer);
}

// ---- the same as kernels.c, in JavaScript: sums in float64, two by two ----
function matmul(y, x, w, T, O, I) {
  let t = 0;
  for (; t + 2 <= T; t += 2)
    for (let o = 0; o < O; o += 2) {
      let a = 0, b = 0, c = 0, d = 0, p = t * I, q = p + I, m = o * I, n = m + I;
      for (let i = 0; i < I; i++, p++, q++, m++, n++) {
        const x0 = x[p], x1 = x[q], w0 = w[m], w1 = w[n];
        a += x0 * w0; b += x0 * w1; c += x1 * w0; d += x1 * w1;
      }
      y[t * O + o] = a; y[t * O + o + 1] = b; y[(t + 1) * O + o] = c; y[(t + 1) * O + o + 1] = d;
    }
  for (; t < T; t++)
    for (let o = 0; o < O; o += 4) {
      let a = 0, b = 0, c = 0, d = 0, p = t * I, m = o * I;
      for (let i = 0; i < I; i++, p++, m++) {
        const x0 = x[p];
        a += x0 * w[m]; b += x0 * w[m + I]; c += x0 * w[m + 2 * I]; d += x0 * w[m + 3 * I];
      }
      y[t * O + o] = a; y[t * O + o + 1] = b; y[t * O + o + 2] = c; y[t * O + o + 3] = d;
    }
}

function attend(out, q, k, v, s, n, step, D, scale) {
  let most = -Infinity, total = 0;
  for (let j = 0; j < n; j++) {
    let sum = 0;
    for (let d = 0; d < D; d++) sum += q[d] * k[j * step + d];
    s[j] = sum * scale;
    if (s[j] > most) most = s[j];
  }
  for (let d = 0; d < D; d++) out[d] = 0;
  for (let j = 0; j < n; j++) total += s[j] = Math.exp(s[j] - most);
  for (let j = 0; j < n; j++) {
    const e = s[j] / total;
    for (let d = 0; d < D; d++) out[d] += e * v[j * step + d];
  }
}
