// What the story and its twins share: words with bold parts, and one choice of several.

function rich(made, words) {
  made.replaceChildren(...words.split("**").map((part, at) => (at % 2 ? make("b", "", part) : part)));
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
