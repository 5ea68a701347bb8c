// One network of the phone book: its share, the machine that a name runs through, and its wall of names.

const CELL = [17, 10.5]; // a name on the wall
const PLANE = [380, 92]; // the machine's drawing
const BOX = 17; // an expert

function share(value) {
  if (value > 0.9995) return value === 1 ? "100%" : ">99.9%";
  return `${(100 * value).toFixed(1)}%`;
}

function twoDigits(number) {
  return String(number).padStart(2, "0");
}

// A run's arrays; rows are recorded steps, columns are names on the wall.
function opened(run, names) {
  const [right, seen, values, answers, chosen] = ["right", "seen", "numbers", "answers", "chosen"].map((part) => numbers(run[part], Uint8Array));
  const slots = chosen.length / right.length;
  return {
    ...run,
    lastAt: run.steps.length - 1,
    isOver: run.steps.at(-1) === run.last,
    isRight: (at, name) => right[at * names + name] === 1,
    isSeen: (name) => seen[name] === 1,
    number: (name) => values[name],
    answer: (name) => answers[name],
    // The experts that a name goes to after that step: all of a dense network.
    experts: (at, name) =>
      slots ? [...chosen.subarray((at * names + name) * slots, (at * names + name + 1) * slots)] : [...Array(run.experts).keys()],
  };
}

class Arm {
  constructor(book, experts, title) {
    Object.assign(this, { book, experts, title, drawn: {} });
    this.number = make("span", "big");
    this.fill = make("i");
    this.sub = make("span", "sub");
    this.teach = button("teach", "", null, () => book.ask(this));
    this.back = button("teach", "Back to the recorded run", null, () => book.tell("back"));
    this.open = holding(button("top", null, title, () => book.openArm(this)), make("b", "", title), this.number, holding(make("span", "bar"), this.fill));
    const more = holding(make("div", "more"), this.machine(), this.wall());
    this.card = holding(make("div", "arm"), this.open, holding(make("div", "line"), this.sub, this.back, this.teach), more);
  }

  get name() {
    return `${this.book.task}-${this.experts}`;
  }

  get run() {
    return this.book.runOf(this.name);
  }

  // Of a run that is going on there is less than the slider would have.
  get at() {
    return Math.min(this.book.at, this.run.lastAt);
  }

  knows(name) {
    return this.run.isRight(this.at, name);
  }

  machine() {
    const [width, height] = PLANE;
    const middle = height / 2 - 4;
    const svg = shape(make("div"), "svg", { class: "machine", viewBox: `0 0 ${width} ${height}`, role: "img" });
    const columns = this.experts === 2 ? 2 : this.experts === 8 ? 4 : 8;
    const [left, top] = [(width - columns * BOX) / 2 + 4, middle - ((this.experts / columns) * BOX) / 2];
    this.names = [-15, 15].map((by) => {
      shape(svg, "rect", { class: "name", x: 0, y: middle + by - 12, width: 64, height: 24, rx: 6 });
      return shape(svg, "text", { class: "name", x: 32, y: middle + by + 5 }, "");
    });
    this.paths = [0, 1].map(() => [shape(svg, "path", { class: "way" }), shape(svg, "path", { class: "way" })]);
    const gap = this.experts === 2 ? 0 : 1;
    this.boxes = Array.from({ length: this.experts }, (_, expert) => {
      const [x, y] = [left + (expert % columns) * BOX, top + Math.floor(expert / columns) * BOX];
      return { x, y: y + BOX / 2, box: shape(svg, "rect", { class: "box", x: x + gap, y: y + gap, width: BOX - 2 * gap, height: BOX - 2 * gap, rx: gap * 3 }) };
    });
    this.answer = shape(svg, "rect", { class: "answer", x: width - 86, y: middle - 15, width: 84, height: 30, rx: 7 });
    this.said = shape(svg, "text", { class: "said", x: width - 44, y: middle + 5 }, "");
    this.truth = shape(svg, "text", { x: width - 44, y: middle + 33 }, "");
    Object.assign(this, { svg, middle, right: left + columns * BOX, left });
    return svg;
  }

  wall() {
    const { first, second } = this.book.data;
    const [across, down] = CELL;
    const label = `Wall of names, ${this.title}: arrow keys choose one`;
    const svg = shape(make("div"), "svg", { class: "wall", viewBox: `0 0 ${across * second.length} ${down * first.length}`, tabindex: 0, role: "application", "aria-label": label });
    this.cells = first.flatMap((_, row) =>
      second.map((_, column) => shape(svg, "rect", { x: column * across + 1, y: row * down + 1, width: across - 2, height: down - 2 })),
    );
    const at = (event) => this.cells.indexOf(event.target);
    svg.onclick = (event) => this.book.choose(at(event));
    svg.onpointermove = (event) => event.pointerType === "mouse" && this.book.choose(at(event));
    svg.onkeydown = (event) => this.book.step(event, second.length);
    return svg;
  }

  draw() {
    const { run, at } = this;
    this.number.textContent = share(run.shares[at]);
    this.fill.style.width = `${100 * run.shares[at]}%`;
    this.drawLine();
    this.drawWall();
    this.drawMachine();
  }

  drawLine() {
    const { run, book } = this;
    const work = `${run.atWork.toLocaleString("en")} of ${run.held.toLocaleString("en")} expert weights at work`;
    const isOwn = book.own?.name === this.name;
    const isGoing = isOwn && book.own.going;
    this.sub.textContent = book.asked === this.name ? "It begins …" : isGoing ? book.own.says : isOwn ? `trained just now, seed ${run.seed}` : work;
    this.back.hidden = !isOwn || isGoing;
    this.teach.textContent = isGoing ? "■ Stop" : "Train it now";
    this.teach.setAttribute("aria-label", `${isGoing ? "Stop training" : "Train now"}: ${this.title}`);
    this.teach.disabled = Boolean(book.asked);
    this.card.classList.toggle("own", isOwn);
  }

  drawWall() {
    const { run, at, book } = this;
    this.cells.forEach((cell, name) => {
      const now = !book.has(name) ? "none" : run.isRight(at, name) ? "right" : "wrong";
      const shown = name === book.name ? `${now} chosen` : now;
      if (this.drawn[name] !== shown) cell.setAttribute("class", (this.drawn[name] = shown));
    });
    this.cells[book.name].parentNode.append(this.cells[book.name]); // its frame lies above its neighbours
  }

  drawMachine() {
    const { run, at, book, middle, left, right } = this;
    const [isRight, experts, end] = [run.isRight(at, book.name), run.experts(at, book.name), PLANE[0] - 87];
    const isOver = run.isOver && at === run.lastAt;
    const number = twoDigits(run.number(book.name));
    book.words(book.name).forEach((word, i) => (this.names[i].textContent = word));
    this.boxes.forEach(({ box }, expert) => box.setAttribute("class", experts.includes(expert) ? "box lit" : "box"));
    this.paths.forEach(([into, out], slot) => {
      const { x, y } = this.boxes[experts[slot]];
      into.setAttribute("d", `M66 ${middle}C${left - 24} ${middle} ${left - 30} ${y} ${x + 1} ${y}`);
      out.setAttribute("d", `M${x + BOX - 1} ${y}C${right + 30} ${y} ${right + 20} ${middle} ${end} ${middle}`);
    });
    this.answer.setAttribute("class", isRight ? "answer" : "answer wrong");
    this.said.textContent = `${isRight ? "✓" : "✗"} ${isRight ? number : isOver ? twoDigits(run.answer(book.name)) : ""}`;
    this.truth.textContent = isRight ? "right" : `it is ${number}`;
    const where = this.experts === 2 ? "the whole network" : `experts ${experts.join(" and ")}`;
    this.svg.setAttribute("aria-label", `${book.words(book.name).join(" ")} goes to ${where}: ${isRight ? "right" : "wrong"}, the number is ${number}`);
  }
}
