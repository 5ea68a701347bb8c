// The card: the path of one token, its likeliest next tokens, and a sentence about the chosen layer.

const CLOSE = 2; // points between the last that was chosen and the first that was not
const AT_STAKE = 0.5; // of an equal part of the weight: the last that was chosen has as much, or it matters little

class Card {
  constructor(explorer) {
    this.explorer = explorer;
    const { trace } = explorer;
    const move = (by) => () => explorer.choose({ token: clamped(explorer.token + by, trace.T - 1) });
    this.name = make("strong", "");
    this.which = make("span", "which");
    const ways = [button("step", "‹", `${trace.Item} before`, move(-1)), button("step", "›", `Next ${trace.item}`, move(1))];
    this.path = new Path(explorer);
    this.next = new Next(explorer);
    this.words = make("p", "words");
    this.box = make("section", "card", null, { "aria-label": `The path of the chosen ${trace.item}` });
    holding(this.box, holding(make("div", "who"), this.name, this.which, ...ways), this.path.box, this.next.box, this.words);
  }

  draw() {
    const { token, trace } = this.explorer;
    this.name.replaceChildren("The path of ", make("bdi", "", trace.data.texts[token]));
    this.which.textContent = trace.which(token);
    this.path.draw();
    this.next.draw();
    this.words.textContent = this.told();
  }

  told() {
    const { layer, token, trace } = this.explorer;
    const list = trace.chosen(layer, token);
    const name = trace.nameOfLayer(layer);
    const Name = capitalised(name);
    if (!trace.isRecorded(layer, token)) return `Where ${name} sent this ${trace.item} is not recorded.`;
    if (!list.length) return `${Name} gave this ${trace.item} no expert: it was dropped.`;
    return [this.picked(list, Name), this.weights(list), this.unused(list), this.nextBest(list)].filter(Boolean).join(" ");
  }

  picked(list, Name) {
    const { layer, trace } = this.explorer;
    const count = trace.counts[layer];
    const ids = list.map((choice) => choice.expert);
    if (list.length === count) return count > 1 ? `${Name} uses all its ${count} experts.` : `${Name} has one expert.`;
    return `${Name}'s router picks expert${ids.length > 1 ? "s" : ""} ${listed(ids)} of ${count}.`;
  }

  weights(list) {
    const { trace } = this.explorer;
    if (list[0].weight === null) {
      if (list.length < 2) return "Its weight is not recorded.";
      return trace.data.ordered ? "Their weights are not recorded." : "Which of them has the most weight is not recorded.";
    }
    const weighed = trace.weighed(list);
    if (list.length < 2) return `Its output is weighted ${weighed[0]}.`;
    if (list.length > 8) return `Their outputs are added, weighted from ${weighed[0]} to ${weighed.at(-1)}.`;
    return `Their outputs are added, weighted ${listed(weighed)}.`;
  }

  // Slots that hold no expert, and experts that compute nothing.
  unused(list) {
    const { layer, trace } = this.explorer;
    const empty = Math.min(trace.slots, trace.counts[layer]) - list.length;
    const idle = list.filter(({ expert }) => expert >= trace.counts[layer] - trace.data.zero).map(({ expert }) => expert);
    const said = [];
    if (empty > 0) said.push(`${empty} of its ${Math.min(trace.slots, trace.counts[layer])} slots ${empty > 1 ? "are" : "is"} empty.`);
    if (idle.length) said.push(`Expert${idle.length > 1 ? "s" : ""} ${listed(idle)} compute${idle.length > 1 ? "" : "s"} nothing.`);
    return said.join(" ");
  }

  // How near the router was to another choice: its scores tell, unless something else decides too.
  nextBest(list) {
    const { layer, token, trace } = this.explorer;
    if (!trace.scores || trace.now !== trace.plain || list.length >= trace.counts[layer]) return "";
    const { gap, last, next } = trace.edge(layer, token);
    const points = 100 * gap;
    if (points < 0) return "By score alone it would have picked others: this router does not go by scores alone.";
    if (!trace.goesByScores()) return "By score alone it would have picked the same; but this router does not go by scores alone.";
    const said = points < 0.1 ? "less than 0.1" : points.toFixed(points < CLOSE ? 1 : 0);
    const close = points < CLOSE && this.atStake(list, last) ? "A close call: expert" : "Expert";
    return `${close} ${next}, the next best, was ${said} points behind expert ${last}.`;
  }

  // Whether another choice would have changed much of what is added.
  atStake(list, last) {
    if (list[0].weight === null) return false;
    const sum = list.reduce((total, { weight }) => total + Math.abs(weight), 0);
    return Math.abs(list.find(({ expert }) => expert === last).weight) * list.length >= AT_STAKE * sum;
  }
}
