// A text, and what a model wrote after it. Both come from strangers: they are only ever put into text nodes.

const tell = (name, detail) => window.dispatchEvent(new CustomEvent(name, { detail }));
const announce = (running) => tell("moeviz:running", running);

function part(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".written");
  root.hidden = !data.continued;
  root.replaceChildren(part("span", data.given), part("ins", data.continued));
  root.scrollTop = root.scrollHeight;
  if (data.ran) tell("moeviz:ran", data.ran);
  if (data.run === null) return undefined;

  // Where two reruns follow each other fast, Streamlit calls what the first gave back after the second has drawn: only
  // what the last one set is ended.
  if (root.stop) window.removeEventListener("moeviz:stop", root.stop);
  const stop = (root.stop = () => setTriggerValue("stop", true));
  window.addEventListener("moeviz:stop", stop);
  announce(true);
  return () => {
    window.removeEventListener("moeviz:stop", stop);
    if (root.stop === stop) announce(false);
  };
}
