// Before Streamlit turns to another page it clears the query of this one, as a step of its own in the browser's history:
// the page that is left would stand there twice. We step nowhere within a page, so such a step is left out.
//
// What Streamlit itself reads from an address (`embed`, `embed_options`) stays in it.
const step = history.pushState;

function stepUnlessWithin(state, unused, address) {
  if (new URL(address ?? "", location).pathname !== location.pathname) step.call(history, state, unused, address);
}

export default function ({ data }) {
  history.pushState = stepUnlessWithin;
  const own = new URLSearchParams(location.search);
  const kept = ["embed", "embed_options"].flatMap((name) => own.getAll(name).map((value) => `${name}=${value}`));
  const query = [data.query, ...kept].filter(Boolean).join("&");
  const wanted = query && `?${query}`;
  if (location.search !== wanted) history.replaceState(history.state, "", location.pathname + wanted + location.hash);
}
