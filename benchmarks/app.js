const now = () => performance.timeOrigin + performance.now();
const isMap = (canvas) => canvas.isConnected && canvas.closest(".map") !== null;
const maps = () => [...document.querySelectorAll("*")].map((e) => e.shadowRoot?.querySelector(".map canvas"));
document.addEventListener("keydown", (e) => {
  if (e.key === "Enter") window.watch = {enter: now(), before: maps().find(Boolean)};
}, true);
for (const name of ["fill", "fillRect", "stroke"]) {
  const paint = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...how) {
    if (window.watch && !window.watch.painted && this.canvas !== window.watch.before && isMap(this.canvas)) {
      window.watch.painted = true;
      requestAnimationFrame(() => {
        const after = new MessageChannel();
        after.port1.onmessage = () => { window.watch.drawn = now(); };
        after.port2.postMessage(0);
      });
    }
    return paint.apply(this, how);
  };
}
