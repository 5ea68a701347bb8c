// What is trained now, on its way from the server to the book. While it goes on, the server is asked how far it is.

const LOOK = 400; // ms until the next look
const LOST = 5000; // ms without an answer: it is asked for again

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.firstElementChild;
  if (!root.kept) beforeLeaving(() => root.isConnected, () => false);
  root.kept = true;
  const send = (name, value) => isLeaving() || tellAlone(() => setTriggerValue(name, value));
  const tell = () => window.dispatchEvent(new CustomEvent("moeviz:taught", { detail: data }));
  const hear = ({ detail }) => (detail === null ? tell() : send("teach", detail));
  const look = () => {
    if (!root.isConnected) return;
    send("look", data.at);
    root.timer = setTimeout(look, LOST);
  };
  clearTimeout(root.timer);
  if (data.going) root.timer = setTimeout(look, LOOK);
  if (root.heard) window.removeEventListener("moeviz:teach", root.heard);
  window.addEventListener("moeviz:teach", (root.heard = hear));
  tell();
  return () => window.removeEventListener("moeviz:teach", hear);
}
