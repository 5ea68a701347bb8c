// Leaving a page. What a fragment tells says which page it is of. If that reaches the server after a click on a link to
// another page, and before the browser has heard of that page, Streamlit goes back to the old one, whose fragment is gone:
// the page stays empty. So what is still to be told is told first, and the click comes after it; nothing is told in between.
// Whoever clicks on another link before that has changed their mind: the first click is not made up for, the second is.

const AFTER_IT = 50; // ms in which the server begins with what it was told, else it would be dropped for the new page
const ANSWERED = 2000; // ms; whoever stays longer than that was not led away, and counts again
const LINK = '[data-testid="stPageLink-NavLink"]';
let left = -Infinity;
let told = -Infinity;
let clicking = null; // what makes up for a click

const isLeaving = () => performance.now() < left + ANSWERED;
const leave = () => (left = performance.now());
window.addEventListener("popstate", leave);

// `tell` is called at a click that leads to another page, for as long as it `isShown`. It says whether it told something.
function beforeLeaving(isShown, tell) {
  left = -Infinity; // this is a page that somebody has come to
  const heard = (event) => {
    if (!isShown()) return window.removeEventListener("click", heard, true);
    const link = event.composedPath().find((part) => part.matches?.(LINK));
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // a tab of its own
    clearTimeout(clicking);
    if (!isLeaving() && tellAlone(tell)) told = performance.now();
    if (performance.now() < told + AFTER_IT) {
      event.preventDefault();
      event.stopImmediatePropagation();
      clicking = setTimeout(() => link.click(), told + AFTER_IT - performance.now());
    } else leave();
  };
  window.addEventListener("click", heard, true);
}

// Streamlit sends what changes within one moment as one message, to the fragment of the first change alone: a press in the
// same moment, which is long while the browser is busy, would be lost. So what a timer tells goes at once, by itself.
function tellAlone(tell) {
  const later = window.setTimeout;
  const sends = [];
  window.setTimeout = (send, wait, ...given) => (wait ? later(send, wait, ...given) : sends.push(send));
  try {
    return tell();
  } finally {
    window.setTimeout = later;
    for (const send of sends) send();
  }
}
