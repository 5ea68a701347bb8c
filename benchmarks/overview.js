const seen = window.seen = {began: 0, stroke: 0, presented: 0, frames: []};
const afterFrame = (then) => requestAnimationFrame(() => {
  const after = new MessageChannel();
  after.port1.onmessage = () => then(performance.now());
  after.port2.postMessage(0);
});
for (const kind of ["keydown", "pointerup"])
  document.addEventListener(kind, () => { seen.began = performance.now(); seen.stroke = 0; }, true);
document.addEventListener("pointermove", () => {
  const moved = performance.now();
  afterFrame((now) => seen.frames.push(now - moved));
}, true);
for (const name of ["fill", "fillRect", "stroke", "drawImage", "fillText"]) {
  const paint = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...how) {
    if (this.canvas.isConnected && this.canvas.closest(".stVegaLiteChart")) {
      if (performance.now() - seen.stroke > 1) afterFrame((now) => { seen.presented = now; });
      seen.stroke = performance.now();
    }
    return paint.apply(this, how);
  };
}
