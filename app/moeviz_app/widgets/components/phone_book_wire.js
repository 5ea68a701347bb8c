// What is trained now, on its way from the server to the book. While it goes on, the server is asked how far it is.
// Of two things that wait for its script, the server hears of the later alone: until it has answered what somebody asks
// for, it is not asked how far it is.

const LOOK = 400; // ms until the next look
const LOST = 5000; // ms without an answer: it is asked for again

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.firstElementChild;
  if (!root.kept) beforeLeaving(() => root.isConnected, () => false);
  root.kept = true;
  const send = (name, value) => isLeaving() || tellAlone(() => setTriggerValue(name, value));
  const tell = () => window.dispatchEvent(new CustomEvent("moeviz:taught", { detail: data }));
  const again = (ask, wait, what) => {
    clearTimeout(root.timer);
    root.timer = setTimeout(() => root.isConnected && ask(what), wait);
  };
  const look = () => {
    send("look", data.at);
    again(look, LOST);
  };
  const teach = (what) => {
    root.asked = what;
    send("teach", what);
    again(teach, LOST, what);
  };
  const isAnswered = !root.asked || !data.going || data.name === root.asked;
  if (isAnswered) {
    root.asked = null;
    clearTimeout(root.timer);
    if (data.going) again(look, LOOK);
  }
  const hear = ({ detail }) => (detail === null ? tell() : teach(detail));
  if (root.heard) window.removeEventListener("moeviz:teach", root.heard);
  window.addEventListener("moeviz:teach", (root.heard = hear));
  if (isAnswered) tell();
  return () => window.removeEventListener("moeviz:teach", hear);
}
