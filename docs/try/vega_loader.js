// What explorer_map.js looks for in Streamlit's front end: a module with one export, which loads vega-embed.
let loading = null; // once, for explorer and atlas

function bundle() {
  const script = Object.assign(document.createElement("script"), { src: new URL("vega.js", import.meta.url) });
  return new Promise((onload, onerror) => document.head.append(Object.assign(script, { onload, onerror })));
}

export const load = async () => {
  await (loading ??= bundle());
  // vl-convert's bundle has the interpreter inside, and uses it where it is given none.
  return { embed: (place, spec, { expr, ...how }) => window.vegaEmbed(place, spec, how), expressionInterpreter: true };
};
