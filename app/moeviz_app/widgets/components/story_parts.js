// What the story and its twins share: words with bold parts and sources, and one choice of several.

// **Strong** words, and numbers of sources as in [3] or [11, 18]. `rich.sources`: of each its name and address.
function rich(made, words) {
  const parts = words.split(/(\*\*.+?\*\*|\[[\d, ]+\])/).map((part) => {
    if (part.startsWith("**")) return make("b", "", part.slice(2, -2));
    if (!/^\[[\d, ]+\]$/.test(part)) return part;
    const links = part.slice(1, -1).split(", ").map((number) => {
      const { name, address } = rich.sources[number - 1];
      return make("a", "source", number, { href: address, title: name, "aria-label": `source ${number}: ${name}`, target: "_blank", rel: "noopener" });
    });
    return holding(make("sup"), ...links);
  });
  made.replaceChildren(...parts);
  return made;
}

// One stop of the Tab key; arrows walk in it, up and down by a row of `across`.
class Choice {
  constructor(name, buttons, pick, across = 1) {
    Object.assign(this, { buttons, pick, at: 0 });
    this.box = holding(make("div", "choice", null, { role: "radiogroup", "aria-label": name }), ...buttons);
    buttons.forEach((one, at) => {
      one.setAttribute("role", "radio");
      one.onclick = () => pick(at);
    });
    this.box.onkeydown = (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      const at = this.at + by;
      if (at < 0 || at >= buttons.length) return;
      pick(at);
      buttons[at].focus();
    };
  }

  show(at) {
    this.at = at;
    this.buttons.forEach((one, i) => {
      one.setAttribute("aria-checked", String(i === at));
      one.tabIndex = i === at ? 0 : -1;
    });
  }
}

function word(text, colour, tag = "button") {
  const made = make(tag, "word", text, tag === "button" ? { type: "button" } : {});
  made.style.cssText = painted(colour);
  return made;
}
