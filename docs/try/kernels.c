// The products and the attention of model.js, on weights in bfloat16 as they lie in the file; sums in float32, in lanes of 4.
// Built by: clang --target=wasm32 -O3 -msimd128 -nostdlib -fno-builtin -Wl,--no-entry,--import-memory,--strip-debug -o kernels.wasm kernels.c
#include <wasm_simd128.h>
typedef unsigned short u16;
static inline v128_t lo(v128_t w) { return wasm_i32x4_shl(wasm_u32x4_extend_low_u16x8(w), 16); }
static inline v128_t hi(v128_t w) { return wasm_i32x4_shl(wasm_u32x4_extend_high_u16x8(w), 16); }
static inline float sum(v128_t v) {
  return (wasm_f32x4_extract_lane(v, 0) + wasm_f32x4_extract_lane(v, 1)) + (wasm_f32x4_extract_lane(v, 2) + wasm_f32x4_extract_lane(v, 3));
}
#define MA(a, x, y) a = wasm_f32x4_add(a, wasm_f32x4_mul(x, y))
__attribute__((export_name("matmul")))
void matmul(float *y, const float *x, const u16 *w, int T, int O, int I) {
  for (int o = 0; o < O; o += 2) {
    const u16 *w0 = w + o * I, *w1 = w0 + I;
    int t = 0;
    for (; t + 4 <= T; t += 4) {
      const float *x0 = x + t * I, *x1 = x0 + I, *x2 = x1 + I, *x3 = x2 + I;
      v128_t z = wasm_f32x4_splat(0), a0 = z, a1 = z, a2 = z, a3 = z, b0 = z, b1 = z, b2 = z, b3 = z;
      for (int i = 0; i < I; i += 8) {
        v128_t p = wasm_v128_load(w0 + i), q = wasm_v128_load(w1 + i);
        v128_t pl = lo(p), ph = hi(p), ql = lo(q), qh = hi(q), v;
        v = wasm_v128_load(x0 + i); MA(a0, pl, v); MA(b0, ql, v); v = wasm_v128_load(x0 + i + 4); MA(a0, ph, v); MA(b0, qh, v);
        v = wasm_v128_load(x1 + i); MA(a1, pl, v); MA(b1, ql, v); v = wasm_v128_load(x1 + i + 4); MA(a1, ph, v); MA(b1, qh, v);
        v = wasm_v128_load(x2 + i); MA(a2, pl, v); MA(b2, ql, v); v = wasm_v128_load(x2 + i + 4); MA(a2, ph, v); MA(b2, qh, v);
        v = wasm_v128_load(x3 + i); MA(a3, pl, v); MA(b3, ql, v); v = wasm_v128_load(x3 + i + 4); MA(a3, ph, v); MA(b3, qh, v);
      }
      float *r = y + t * O + o;
      r[0] = sum(a0); r[1] = sum(b0); r[O] = sum(a1); r[O + 1] = sum(b1);
      r[2 * O] = sum(a2); r[2 * O + 1] = sum(b2); r[3 * O] = sum(a3); r[3 * O + 1] = sum(b3);
    }
    for (; t < T; t++) {
      const float *x0 = x + t * I;
      v128_t z = wasm_f32x4_splat(0), a = z, b = z, c = z, d = z;
      for (int i = 0; i < I; i += 8) {
        v128_t p = wasm_v128_load(w0 + i), q = wasm_v128_load(w1 + i), v = wasm_v128_load(x0 + i), u = wasm_v128_load(x0 + i + 4);
        MA(a, lo(p), v); MA(c, hi(p), u); MA(b, lo(q), v); MA(d, hi(q), u);
      }
      y[t * O + o] = sum(wasm_f32x4_add(a, c)); y[t * O + o + 1] = sum(wasm_f32x4_add(b, d));
    }
  }
}
// One query head against n keys that lie `step` floats apart: its softmax-weighted values. Head size a multiple of 4.
extern float exp_(float) __attribute__((import_module("js"), import_name("exp")));
__attribute__((export_name("attend")))
void attend(float *out, const float *q, const float *k, const float *v, float *s, int n, int step, int D, float scale) {
  float most = -3e38f, total = 0;
  for (int j = 0; j < n; j++) {
    v128_t a = wasm_f32x4_splat(0), b = a;
    for (int d = 0; d < D; d += 8) { MA(a, wasm_v128_load(q + d), wasm_v128_load(k + j * step + d)); MA(b, wasm_v128_load(q + d + 4), wasm_v128_load(k + j * step + d + 4)); }
    s[j] = sum(wasm_f32x4_add(a, b)) * scale;
    if (s[j] > most) most = s[j];
  }
  for (int d = 0; d < D; d++) out[d] = 0;
  for (int j = 0; j < n; j++) {
    float e = exp_(s[j] - most);
    total += e;
    v128_t w = wasm_f32x4_splat(e);
    for (int d = 0; d < D; d += 4) wasm_v128_store(out + d, wasm_f32x4_add(wasm_v128_load(out + d), wasm_f32x4_mul(w, wasm_v128_load(v + j * step + d))));
  }
  for (int d = 0; d < D; d++) out[d] /= total;
}
