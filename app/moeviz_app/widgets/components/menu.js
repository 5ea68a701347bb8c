// The links of the place and of the tab that are open are called so, and the tab's is in sight. Links are drawn by
// Streamlit, later and anew as it likes, so they are watched.
export default function ({ data }) {
  const rows = { ".st-key-menu": data.places, ".st-key-submenu": data.tabs };
  const mark = () => {
    for (const [row, open] of Object.entries(rows)) {
      for (const link of document.querySelectorAll(`${row} a`)) {
        const is = open.includes(link.getAttribute("href"));
        if (is === link.hasAttribute("aria-current")) continue;
        if (!is) { link.removeAttribute("aria-current"); continue; }
        link.setAttribute("aria-current", "page");
        const bar = link.closest(row), of = bar.getBoundingClientRect(), at = link.getBoundingClientRect();
        if (at.left < of.left || at.right > of.right) bar.scrollLeft += at.left - of.left - (of.width - at.width) / 2;
      }
    }
  };
  mark();
  const watch = new MutationObserver(mark);
  watch.observe(document.body, { childList: true, subtree: true, attributeFilter: ["href"] });
  return () => watch.disconnect();
}
