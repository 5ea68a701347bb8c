// A text to type over. It comes from strangers: it is only ever put into text nodes and values, never parsed.

const inWords = new Intl.Segmenter(undefined, { granularity: "word" });
const length = (text) => [...text].length; // characters, as the server counts them

// The pieces of the text: those to type over have the place of their first character.
function piecesOf(text, edit) {
  const pieces = [];
  let at = 0;
  for (const { segment } of inWords.segment(text)) {
    const inEdit = edit && at >= edit[0] && at < edit[1];
    if (inEdit && at === edit[0]) {
      const was = [...text].slice(edit[0], edit[1]).join("");
      pieces.push({ start: edit[0], end: edit[1], was, now: edit[2] });
    } else if (!inEdit) {
      const end = at + length(segment);
      pieces.push(segment.trim() ? { start: at, end, was: segment, now: null } : { space: segment });
    }
    at += length(segment);
  }
  return pieces;
}

function word(piece) {
  const button = document.createElement("button");
  button.type = "button";
  button.tabIndex = -1;
  if (piece.now === null) {
    button.textContent = piece.was;
  } else {
    const was = document.createElement("del");
    const now = document.createElement("ins");
    was.textContent = piece.was;
    now.textContent = piece.now;
    button.append(was, " ", now);
  }
  return button;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const place = parentElement.querySelector(".words");
  const told = JSON.stringify(data);
  if (place.told === told) return; // somebody may be typing
  place.told = told;
  place.replaceChildren();
  const buttons = [];

  const walk = (to) => {
    buttons.forEach((button) => (button.tabIndex = button === to ? 0 : -1));
    to.focus();
  };
  const typeOver = (button, piece) => {
    const field = document.createElement("input");
    field.value = piece.now ?? piece.was;
    field.setAttribute("aria-label", `In place of ${piece.was}`);
    field.autocapitalize = "off";
    field.spellcheck = false;
    field.style.width = `${Math.max(field.value.length + 3, 6)}ch`;
    const back = () => {
      field.onblur = null; // taking it away is a blur, too
      field.replaceWith(button);
    };
    field.onblur = back;
    field.onkeydown = (event) => {
      event.stopPropagation(); // Streamlit has hotkeys of its own
      if (event.key === "Enter" && !event.isComposing) {
        const { start, end } = piece;
        if (field.value !== (piece.now ?? piece.was)) setTriggerValue("edit", { start, end, text: field.value });
      } else if (event.key !== "Escape") return;
      event.preventDefault();
      back();
      walk(button);
    };
    button.replaceWith(field);
    field.focus();
    field.select();
  };

  for (const piece of piecesOf(data.text, data.edit)) {
    if ("space" in piece) {
      place.append(piece.space);
      continue;
    }
    const button = word(piece);
    button.onclick = () => typeOver(button, piece);
    buttons.push(button);
    place.append(button);
  }
  const changed = buttons.find((button) => button.querySelector("ins"));
  if (buttons.length) (changed ?? buttons[0]).tabIndex = 0;
  place.onkeydown = (event) => {
    const at = buttons.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined || !buttons[to]) return;
    walk(buttons[to]);
    event.preventDefault();
    event.stopPropagation();
  };
}
