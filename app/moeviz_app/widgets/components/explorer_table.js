// What the map shows, for those who hear it: the experts of each token in the strip's window at the chosen layer, and
// the chosen token's in every layer. Made a moment after a choice, since nobody sees it.

class Table {
  constructor(explorer) {
    this.explorer = explorer;
    this.box = make("div", "heard");
  }

  draw() {
    const { layer, token, strip } = this.explorer;
    const key = [layer, token, ...strip.window].join();
    if (this.drawn === key) return;
    this.drawn = key;
    this.box.replaceChildren(this.ofLayer(), this.ofToken());
  }

  ofLayer() {
    const { layer, trace, strip } = this.explorer;
    const [from, to] = strip.window;
    const rows = [];
    for (let token = from; token < to; token++) rows.push([`${trace.positions[token] + 1} ${trace.data.texts[token]}`, trace.choice(layer, token)]);
    return this.table(`${trace.Item}s ${from + 1} to ${to} at ${trace.nameOfLayer(layer)}`, [trace.Item, "Experts"], rows);
  }

  ofToken() {
    const { token, trace } = this.explorer;
    const rows = trace.layers.map((_, layer) => [trace.nameOfLayer(layer), trace.choice(layer, token)]);
    return this.table(`${trace.data.texts[token]} in every ${trace.word}`, [trace.word, "Experts"], rows);
  }

  table(caption, names, rows) {
    const head = holding(make("tr"), ...names.map((name) => make("th", "", name, { scope: "col" })));
    const body = rows.map(([name, choice]) => holding(make("tr"), make("th", "", name, { scope: "row" }), make("td", "", choice)));
    return holding(make("table"), make("caption", "", caption), head, ...body);
  }
}
