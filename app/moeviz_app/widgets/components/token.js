// What strips of tokens and pictures of experts share: the ink on a colour, and the way from line to line.

// WCAG: the ink with the higher contrast.
function inkOn(colour) {
  const channel = (at) => {
    const value = parseInt(colour.slice(at, at + 2), 16) / 255;
    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5) > 0.179 ? "#000000" : "#ffffff";
}

// The token on the next or last line that stands closest under or over this one.
function verticalNeighbour(drawn, from, step) {
  const start = drawn[from].getBoundingClientRect();
  let [line, best, bestDistance] = [null, from, Infinity];
  for (let i = from + step; drawn[i]; i += step) {
    const box = drawn[i].getBoundingClientRect();
    if (Math.abs(box.top - start.top) < 4) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > 4) break;
    const distance = Math.abs(box.left - start.left);
    if (distance < bestDistance) [best, bestDistance] = [i, distance];
  }
  return best;
}
