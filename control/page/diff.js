// What differs between two texts, line by line.

// Longer texts are shown as all gone and all come: the table of common lines would grow with the product.
const MOST = 2000;

// Pairs of `same`, `gone` or `come` and the line.
export function lines(before, after) {
  const [a, b] = [before, after].map((text) => (text === "" ? [] : text.replace(/\n$/, "").split("\n")));
  if (a.length > MOST || b.length > MOST) return [...a.map((line) => ["gone", line]), ...b.map((line) => ["come", line])];
  // common[i][j]: length of the longest common part of a from i and b from j.
  const width = b.length + 1;
  const common = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i * width + j] = a[i] === b[j] ? common[(i + 1) * width + j + 1] + 1 : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const found = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { found.push(["same", a[i]]); i++; j++; }
    else if (j >= b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) found.push(["gone", a[i++]]);
    else found.push(["come", b[j++]]);
  }
  return found;
}
