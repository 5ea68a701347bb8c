// The atlas: map, grid and cards of one set of texts. A search is answered on the server and comes as an event.

const FEWEST = 8; // tokens of a word, from which on experts are told apart; see moeviz/metrics/who_takes.py

class Tip {
  constructor(root) {
    this.root = root;
    this.box = make("div", "tip", null, { "aria-hidden": "true" });
    this.hide();
  }

  show(event, lines) {
    const around = this.root.getBoundingClientRect();
    this.box.replaceChildren(...lines);
    this.box.hidden = false;
    const left = clamped(event.clientX - around.left + 14, Math.max(0, around.width - this.box.offsetWidth - 2));
    Object.assign(this.box.style, { left: `${left}px`, top: `${event.clientY - around.top + 16}px` });
  }

  hide() {
    this.box.hidden = true;
  }
}

class View {
  constructor(root, data, send) {
    Object.assign(this, { root, send, query: data.query, found: null, atlas: new Atlas(data) });
    this.tip = new Tip(root);
    this.map = new AtlasMap(this);
    this.cards = new Cards(this);
    this.grid = this.cards.pick ? new Grid(this) : null;
    if (!this.grid) this.cards.draw();
    root.replaceChildren(this.map.box, ...(this.grid ? [this.grid.box] : []), this.cards.head, this.cards.box, this.tip.box);
    this.grid?.draw();
  }

  // The map; and the cards of a layer of many, which are below the first screen, after it.
  async show() {
    await this.map.embed();
    if (this.grid) this.cards.draw();
  }

  isShown() {
    return this.root.isConnected && this.root.view === this;
  }

  // What a search has found, or null.
  light(told) {
    const found = told?.id === this.atlas.data.id ? told : null; // another search may be of other texts
    if (!found === !this.found && found?.word === this.found?.word) return;
    this.found = found && { ...found, bits: unpacked(found.bits, Uint8Array), enough: found.count >= FEWEST };
    this.map.light();
    this.grid?.draw();
    this.cards.draw();
  }

  renew(data, send) {
    this.send = send;
    const moved = JSON.stringify(this.query) !== JSON.stringify(data.query);
    this.query = data.query;
    if (moved) this.cards.draw();
    this.map.draw(); // of another colour, maybe
    this.grid?.draw();
  }

  end() {
    this.map.end();
  }

  open(layer, expert) {
    this.send("open", { expert: [this.atlas.layers[layer], expert], id: this.atlas.data.id });
  }

  // Turn an <a> into the way to an expert's page: a real link, which the browser may open in a tab.
  linkTo(layer, expert, made) {
    const query = new URLSearchParams({ ...this.query, layer: this.atlas.layers[layer], expert });
    made.setAttribute("href", `${this.atlas.data.expertPage ?? "expert"}?${query}`);
    made.onclick = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button) return; // the browser's own
      event.preventDefault();
      this.open(layer, expert);
    };
    return made;
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".atlas");
  const before = root.view;
  if (before?.atlas.data.id === data.id) before.renew(data, setTriggerValue);
  else {
    before?.end();
    root.view = null;
    root.view = new View(root, data, setTriggerValue);
    root.view.show();
  }
  const hear = ({ detail }) => root.view.light(detail);
  if (root.heard) window.removeEventListener("moeviz:found", root.heard);
  window.addEventListener("moeviz:found", (root.heard = hear));
  window.dispatchEvent(new CustomEvent("moeviz:find"));
  return () => window.removeEventListener("moeviz:found", hear);
}
