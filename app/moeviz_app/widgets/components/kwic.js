// Tokens in their text. Text comes from strangers: it is only ever put into text nodes, never parsed.

function cell(className, text) {
  const made = document.createElement("span");
  made.className = className;
  // The end of what comes before shows where there is no place for all: a box from right to left, with text that is not.
  (className === "before" ? made.appendChild(document.createElement("bdi")) : made).textContent = text;
  return made;
}

export default function ({ data, parentElement }) {
  const { lines, colour } = data;
  const drawn = lines.map((line) => {
    const row = document.createElement("div");
    row.className = "line";
    row.setAttribute("role", "listitem");
    const hit = cell("hit", line.text);
    Object.assign(hit.style, { background: colour, color: inkOn(colour) });
    row.append(cell("before", line.before), hit, cell("after", line.after), cell("label", line.label));
    row.append(cell("weight", line.weight ?? ""));
    return row;
  });
  parentElement.querySelector(".kwic").replaceChildren(...drawn);
}
