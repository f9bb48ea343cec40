"use strict";
// Everything on the page is drawn from the figures in it; names come from files, so they only ever become text.
const checkpoints = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const NS = "http://www.w3.org/2000/svg";
const CURVES = ["--curve", "--curve-2", "--curve-3", "--curve-4"];
const ORDER = ["sign", "exponent", "mantissa", "used", "told by scales", "unused"]; // of the parts of a word
const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];
let current = checkpoints[0], sorted = { key: null, down: false }, shown = [], opened = null;

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "rect", "line", "text", "circle", "polyline"].includes(tag);
  const node = svg ? document.createElementNS(NS, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
function bytes(n) {
  let unit = 0;
  while (n >= 1000 && unit < UNITS.length - 1) { n /= 1000; unit++; }
  return `${unit ? n.toPrecision(3) : n} ${UNITS[unit]}`;
}
function count(n) {
  const steps = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  for (const [size, word] of steps) if (n >= size) return `${(n / size).toPrecision(3)} ${word}`;
  return String(n);
}
function figure(x, digits = 3) {
  if (x === null || x === undefined) return "–";
  if (x === 0 || (Math.abs(x) >= 1e-3 && Math.abs(x) < 1e5)) return String(Number(x.toPrecision(digits)));
  return x.toExponential(digits - 1);
}
const fixed = (x, digits) => (x === null || x === undefined ? "–" : x.toFixed(digits));
const shape = (t) => t.shape.join(" × ") || "scalar";
const ratio = (t) => (t.predicted_bytes && t.bytes ? t.predicted_bytes.default / t.bytes : null);
const model = (t) => (t.fits && t.fits.length ? t.fits[0].model : t.bits.constant ? "constant" : null);
const needs = (t) => (t.bounds ? t.bounds.empirical["30"] : null);

// Where the bits of a tensor go, once its row and column scales are used: parts of a word.
function parts(t) {
  const b = t.bits;
  if (b.joint === null) return [];
  const total = b.joint, told = b.given_scales === null ? total : Math.min(total, b.given_scales);
  if (b.sign === null) return [["used", total, "--exponent"], ["unused", Math.max(0, b.word - total), "--line"]];
  const sum = b.sign + b.exponent + b.mantissa || 1;
  const scale = told / sum;
  return [
    ["sign", b.sign * scale, "--sign"], ["exponent", b.exponent * scale, "--exponent"],
    ["mantissa", b.mantissa * scale, "--mantissa"], ["told by scales", total - told, "--saved"],
    ["unused", Math.max(0, b.word - total), "--line"],
  ];
}
function stack(pieces, whole) {
  const node = make("div", { class: "stack" });
  for (const [name, value, color] of pieces)
    if (value > 0) node.append(make("i", {
      style: { width: `${(100 * value) / whole}%`, background: `var(${color})` },
      "data-tip": `${name}: ${value.toFixed(2)} bits of ${whole.toFixed(1)}`,
    }));
  return node;
}

function spark(t) {
  const h = t.moments.histogram;
  if (!h) return make("span", { class: "quiet" }, "–");
  const step = 4, columns = [];
  for (let k = 0; k < h.counts.length; k += step) columns.push(h.counts.slice(k, k + step).reduce((a, b) => a + b, 0));
  const top = Math.max(...columns) || 1;
  let path = "";
  columns.forEach((c, k) => { if (c > 0) { const y = Math.max(0.6, (22 * c) / top); path += `M${k * 3.5} 22v${-y.toFixed(1)}h3v${y.toFixed(1)}z`; } });
  return make("svg", { class: "spark", viewBox: "0 0 84 22", "aria-hidden": "true" }, make("path", { d: path }));
}

const COLUMNS = [
  { key: "name", title: "tensor", text: true, value: (t) => t.name, cell: (t) => make("td", { class: "text", title: t.name }, t.name) },
  { key: "dtype", title: "dtype", text: true, value: (t) => t.dtype, cell: (t) => make("td", { class: "text" }, make("span", { class: "tag" }, t.dtype)) },
  { key: "shape", title: "shape", value: (t) => t.parameters, cell: (t) => make("td", {}, shape(t)) },
  { key: "bytes", title: "size", value: (t) => t.bytes, cell: (t) => make("td", {}, bytes(t.bytes)) },
  { key: "histogram", title: "histogram", text: true, value: (t) => t.moments.peak_to_rms, cell: (t) => make("td", { class: "text" }, spark(t)) },
  { key: "std", title: "std", value: (t) => t.moments.std, cell: (t) => make("td", {}, figure(t.moments.std)) },
  { key: "kurtosis", title: "kurtosis", value: (t) => t.moments.excess_kurtosis, cell: (t) => make("td", {}, figure(t.moments.excess_kurtosis)) },
  { key: "bits", title: "bits", value: (t) => t.bits.given_scales ?? t.bits.joint, cell: (t) => make("td", {}, fixed(t.bits.given_scales ?? t.bits.joint, 2)) },
  { key: "packed", title: "packed", value: ratio, cell: (t) => {
    const r = ratio(t);
    if (t.bits.duplicate_of !== null) return make("td", { class: "quiet" }, "same");
    const bar = r === null ? null : make("span", { class: "meter" }, make("i", { style: { width: `${Math.min(100, 100 * r)}%` } }));
    return make("td", {}, fixed(r, 3), bar);
  } },
  { key: "db30", title: "30 dB", value: needs, cell: (t) => make("td", {}, fixed(needs(t), 2)) },
  { key: "rank", title: "rank", value: (t) => (t.structure ? t.structure.effective_rank / Math.min(t.structure.rows, t.structure.columns) : null),
    cell: (t) => make("td", {}, t.structure ? `${t.structure.exact ? "" : "≤ "}${Math.round(t.structure.effective_rank)} / ${Math.min(t.structure.rows, t.structure.columns)}` : "–") },
  { key: "model", title: "looks like", text: true, value: model, cell: (t) => make("td", { class: "text" }, model(t) ?? "–") },
];

function heading() {
  const row = make("tr");
  for (const column of COLUMNS) {
    const on = sorted.key === column.key;
    const arrow = on ? (sorted.down ? " ↓" : " ↑") : "";
    row.append(make("th", { class: column.text ? "text" : "", scope: "col", "aria-sort": on ? (sorted.down ? "descending" : "ascending") : null },
      make("button", { type: "button", "data-sort": column.key, onclick: () => sort(column.key) }, column.title + arrow)));
  }
  $("tensors").tHead.replaceChildren(row);
}
function sort(key) {
  sorted = { key, down: sorted.key === key ? !sorted.down : key !== "name" && key !== "dtype" && key !== "model" };
  table();
}
function table() {
  heading();
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = current.tensors.filter((t) => {
    const text = `${t.name} ${t.dtype} ${model(t) ?? ""} ${t.advice.join(" ")}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const column = COLUMNS.find((c) => c.key === sorted.key);
  if (column) {
    const way = sorted.down ? -1 : 1;
    shown.sort((a, b) => {
      const x = column.value(a), y = column.value(b);
      if (x === null || x === undefined) return y === null || y === undefined ? 0 : 1; // what is unknown stays last
      if (y === null || y === undefined) return -1;
      return way * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
  }
  const body = document.createDocumentFragment();
  for (const t of shown)
    body.append(make("tr", { tabindex: 0, class: opened === t ? "open" : "", onclick: () => detail(t),
      onkeydown: (event) => { if (event.key === "Enter") detail(t); } }, ...COLUMNS.map((c) => c.cell(t))));
  $("tensors").tBodies[0].replaceChildren(body);
  const all = current.tensors.length;
  $("count").textContent = shown.length === all ? `${all}` : `${shown.length} of ${all}`;
}

function histogram(t) {
  const h = t.moments.histogram, W = 580, H = 200, B = 20;
  const n = h.counts.length, width = (h.high - h.low) / n, total = t.moments.count;
  const heights = h.counts.map((c) => c / total / width);
  const curves = (t.fits || []).filter((f) => f.density).slice(0, CURVES.length);
  const peak = Math.max(...heights);
  const top = Math.max(peak, ...curves.map((f) => Math.min(1.3 * peak, Math.max(...f.density)))) * 1.04 || 1;
  const x = (k) => (k / n) * W, y = (v) => H - (Math.min(v, top) / top) * (H - 6);
  let bars = "";
  heights.forEach((v, k) => { if (v > 0) bars += `M${x(k).toFixed(1)} ${H}V${y(v).toFixed(1)}H${(x(k + 1) - 0.6).toFixed(1)}V${H}z`; });
  const svg = make("svg", { viewBox: `0 0 ${W} ${H + B}`, role: "img", "aria-label": `Histogram of ${t.name}` },
    make("path", { class: "bars", d: bars }), make("line", { class: "rule", x1: 0, x2: W, y1: H, y2: H }));
  curves.slice().reverse().forEach((f) => {
    const k = curves.indexOf(f);
    const points = f.density.map((v, i) => `${x(i + 0.5).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
    svg.append(make("polyline", { class: "curve", points, style: { stroke: `var(${CURVES[k]})`, "stroke-dasharray": k ? "4 4" : "none", opacity: k ? 0.75 : 1 } }));
  });
  for (let k = 0; k <= 4; k++)
    svg.append(make("text", { class: "axis", x: (k / 4) * W, y: H + 15, "text-anchor": k === 0 ? "start" : k === 4 ? "end" : "middle" }, figure(h.low + (k / 4) * (h.high - h.low))));
  return svg;
}
function spectrum(s) {
  const W = 270, H = 230, B = 30, L = 34;
  const most = Math.log10(s.spectrum[s.spectrum.length - 1][0] || 1) || 1;
  const x = (k) => L + (Math.log10(k) / most) * (W - L - 6), y = (v) => 6 + (1 - v) * (H - 12);
  const points = s.spectrum.map(([k, v]) => `${x(k).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  const energy = Object.entries(s.energy).map(([k, v]) => `${x(Number(k)).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  const svg = make("svg", { viewBox: `0 0 ${W} ${H + B}`, role: "img", "aria-label": "Spectrum" });
  for (const v of [0, 0.5, 1]) svg.append(make("line", { class: "rule", x1: L, x2: W, y1: y(v), y2: y(v) }), make("text", { class: "axis", x: L - 6, y: y(v) + 4, "text-anchor": "end" }, String(v)));
  for (let k = 1; Math.log10(k) <= most; k *= 10) svg.append(make("text", { class: "axis", x: x(k), y: H + 14, "text-anchor": "middle" }, String(k)));
  svg.append(make("polyline", { class: "curve", points, style: { stroke: "var(--accent)" } }), make("polyline", { class: "curve", points: energy, style: { stroke: "var(--saved)", "stroke-dasharray": "4 3" } }));
  return svg;
}
// A perceptually even ramp from dark blue over teal to yellow.
const RAMP = [[36, 28, 84], [42, 77, 140], [31, 132, 150], [72, 187, 131], [178, 222, 96], [253, 231, 90]];
function color(share) {
  const at = Math.min(0.9999, Math.max(0, share)) * (RAMP.length - 1), k = Math.floor(at), f = at - k;
  return RAMP[k].map((c, i) => Math.round(c + f * (RAMP[k + 1][i] - c)));
}
function heat(scales) {
  const rows = scales.octaves, height = rows.length, width = rows[0].length;
  const values = rows.flat().filter((v) => v !== null).sort((a, b) => a - b);
  const low = values[Math.floor(values.length * 0.02)] ?? 0, high = values[Math.ceil(values.length * 0.98) - 1] ?? 1;
  const canvas = make("canvas", { width, height, role: "img", "aria-label": "Map of row and column scales" });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  rows.flat().forEach((v, k) => {
    const [r, g, b] = v === null ? [128, 128, 128] : color((v - low) / (high - low || 1));
    image.data.set([r, g, b, v === null ? 60 : 255], 4 * k);
  });
  context.putImageData(image, 0, 0);
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    const i = Math.min(height - 1, Math.floor(((event.clientY - box.top) / box.height) * height));
    const j = Math.min(width - 1, Math.floor(((event.clientX - box.left) / box.width) * width));
    tip(event, rows[i][j] === null ? "all zero" : `mean log2 |w| = ${rows[i][j].toFixed(2)}`);
  });
  canvas.addEventListener("mouseleave", () => { $("tip").hidden = true; });
  return [canvas, `${low.toFixed(1)} to ${high.toFixed(1)} octaves`];
}
function facts(pairs) {
  return make("div", { class: "grid" }, ...pairs.map(([name, value]) => make("div", {}, make("span", {}, name), make("b", { style: { "font-weight": 500 } }, value))));
}
function detail(t) {
  opened = t;
  const m = t.moments, b = t.bits, s = t.structure, q = m.quantiles || {};
  const parted = parts(t);
  const nodes = [
    make("button", { class: "close", type: "button", onclick: close, "aria-label": "Close" }, "✕"),
    make("h2", { id: "detail-name" }, t.name),
    make("p", { class: "quiet" }, `${t.dtype} · ${shape(t)} · ${count(t.parameters)} numbers · ${bytes(t.bytes)}`),
    make("ul", {}, ...t.advice.map((sentence) => make("li", {}, sentence))),
  ];
  if (m.histogram) nodes.push(make("h3", {}, "Distribution"), histogram(t));
  if (t.fits && t.fits.length) {
    const rows = t.fits.map((f, k) => make("tr", {},
      make("td", {}, make("span", { class: "dot", style: { background: k < CURVES.length && f.density ? `var(${CURVES[k]})` : "transparent" } }), f.model),
      make("td", {}, Object.entries(f.parameters).map(([name, v]) => `${name.replaceAll("_", " ")} ${figure(v)}`).join(", ")),
      make("td", {}, figure(f.ks, 2)), make("td", {}, fixed(f.lost_bits, 3))));
    nodes.push(make("table", { class: "models" }, make("tr", {}, ...["model", "parameters", "KS", "bits lost"].map((name) => make("th", {}, name))), ...rows));
  }
  if (parted.length) nodes.push(make("h3", {}, `Where the ${b.word} bits go`), stack(parted, Math.max(b.word, b.joint)),
    make("div", { class: "legend" }, ...parted.map(([name, v, c]) => make("span", {}, make("i", { style: { background: `var(${c})` } }), `${name} ${v.toFixed(2)}`))));
  nodes.push(make("h3", {}, "Figures"), facts([
    ["mean", figure(m.mean)], ["std", figure(m.std)], ["skewness", figure(m.skewness)], ["kurtosis", figure(m.excess_kurtosis)],
    ["min", figure(m.min)], ["max", figure(m.max)], ["median", figure(q["0.5"])], ["1 %", figure(q["0.01"])], ["99 %", figure(q["0.99"])],
    ["zeros", count(m.zeros)], ["NaN", count(m.nan)], ["infinite", count(m.infinite)], ["beyond 6 σ", figure(m.beyond_6_sigma)],
    ["largest / RMS", figure(m.peak_to_rms)], ["distinct", count(b.distinct)], ["row spread", figure(m.row_spread)], ["column spread", figure(m.column_spread)],
    ["stable rank", s ? figure(s.stable_rank) : "–"], ["effective rank", s ? `${s.exact ? "" : "≤ "}${figure(s.effective_rank)}` : "–"],
  ]));
  if (t.bounds) nodes.push(make("h3", {}, "Bits a weight needs"), facts(["20", "30", "40"].map((db) => [`${db} dB`, fixed(t.bounds.empirical[db], 2)])));
  if (t.predicted_bytes) nodes.push(make("h3", {}, "Size after packing"), sizes(t.bytes, t.predicted_bytes));
  const halves = make("div", { class: "halves" });
  if (t.scales) {
    const [canvas, range] = heat(t.scales);
    halves.append(make("div", {}, make("h3", {}, "Row and column scales"), canvas, make("p", { class: "quiet" }, range)));
  }
  if (s) halves.append(make("div", {}, make("h3", {}, "Spectrum"), spectrum(s), make("div", { class: "legend" },
    make("span", {}, make("i", { style: { background: "var(--accent)" } }), "singular value"), make("span", {}, make("i", { style: { background: "var(--saved)" } }), "energy captured"))));
  if (halves.children.length) nodes.push(halves);
  $("detail").replaceChildren(...nodes);
  $("detail").hidden = false;
  $("detail").scrollTop = 0;
  for (const row of $("tensors").tBodies[0].rows) row.classList.toggle("open", shown[row.sectionRowIndex] === t);
}
function close() {
  $("detail").hidden = true;
  $("tip").hidden = true;
  const row = $("tensors").querySelector("tr.open");
  if (row) { row.classList.remove("open"); row.focus({ preventScroll: true }); }
  opened = null;
}
function sizes(whole, predicted) {
  const node = make("div"), most = Math.max(whole, ...Object.values(predicted), 1);
  for (const [name, size] of [["plain", whole], ...Object.entries(predicted)])
    node.append(make("div", { class: "size" }, make("span", {}, name),
      make("div", { class: "track" }, make("i", { class: name === "plain" ? "plain" : "", style: { width: `${(100 * size) / most}%` } })),
      make("span", {}, bytes(size), make("span", { class: "quiet" }, name === "plain" || !whole ? "" : ` ${(size / whole).toFixed(3)}`))));
  return node;
}

function layers() {
  const node = $("layers");
  node.replaceChildren();
  const byGroup = new Map();
  for (const t of current.tensors) {
    const g = current.groups.find((one) => t.name === one.name || t.name.startsWith(`${one.name}.`)) || current.whole;
    if (!byGroup.has(g)) byGroup.set(g, []);
    byGroup.get(g).push(t);
  }
  for (const [g, tensors] of byGroup) {
    const sums = new Map();
    let words = 0, wide = 0;
    for (const t of tensors) {
      words += t.counted;
      for (const [name, value, c] of parts(t)) {
        const [old] = sums.get(name) || [0];
        sums.set(name, [old + value * t.counted, c]);
        wide += value * t.counted;
      }
    }
    if (!words) continue;
    const pieces = [...sums].map(([name, [value, c]]) => [name, value / words, c]).sort((a, b) => ORDER.indexOf(a[0]) - ORDER.indexOf(b[0]));
    const used = pieces.filter(([name]) => name !== "unused" && name !== "told by scales").reduce((a, [, v]) => a + v, 0);
    node.append(make("div", { class: "layer" }, make("span", { title: g.name }, `\u200e${g.name}`), stack(pieces, wide / words), make("span", {}, used.toFixed(2))));
  }
  const names = [["sign", "--sign"], ["exponent", "--exponent"], ["mantissa", "--mantissa"], ["told by scales", "--saved"], ["unused", "--line"]];
  $("legend").replaceChildren(...names.map(([name, c]) => make("span", {}, make("i", { style: { background: `var(${c})` } }), name)));
}
function advise() {
  const alike = new Map();
  for (const t of current.tensors) for (const sentence of t.advice) {
    const head = sentence.split(":")[0].split(" ").slice(0, 2).join(" ");
    if (!alike.has(head)) alike.set(head, []);
    alike.get(head).push([t, sentence]);
  }
  const size = (said) => said.reduce((a, [t]) => a + t.bytes, 0);
  const items = [...alike.values()].sort((a, b) => size(b) - size(a)).map((said) => {
    const [t, sentence] = said.slice().sort((a, b) => b[0].bytes - a[0].bytes)[0];
    const filter = sentence.split(":")[0].split(" ").slice(0, 2).join(" ");
    const others = said.length > 1 ? make("a", { href: "#tensors", onclick: () => { $("filter").value = filter; table(); } }, ` and ${said.length - 1} more`) : null;
    return make("li", {}, make("a", { href: "#", onclick: (event) => { event.preventDefault(); detail(t); } }, t.name), `: ${sentence}`, others);
  });
  $("advice").replaceChildren(...items);
  $("advised").hidden = !items.length;
}
function tip(event, text) {
  const node = $("tip");
  node.textContent = text;
  node.hidden = false;
  node.style.left = `${Math.min(event.clientX + 12, innerWidth - node.offsetWidth - 8)}px`;
  node.style.top = `${Math.min(event.clientY + 14, innerHeight - node.offsetHeight - 8)}px`;
}
document.addEventListener("mousemove", (event) => {
  const text = event.target.dataset ? event.target.dataset.tip : null;
  if (text) tip(event, text);
  else if (event.target.tagName !== "CANVAS") $("tip").hidden = true;
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !$("detail").hidden) close(); });
$("filter").addEventListener("input", table);
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

function show(checkpoint) {
  current = checkpoint;
  opened = null;
  $("detail").hidden = true;
  const w = current.whole, p = w.predicted_bytes;
  const name = current.path.split("/").filter(Boolean).pop() || current.path;
  document.title = `${name} · mc analyze`;
  $("title").textContent = name;
  $("subtitle").textContent = current.files.length > 1 ? `${current.files.length} files in ${current.path}` : current.path;
  const dtypes = [...new Set(current.tensors.map((t) => t.dtype))];
  const cards = [
    ["parameters", count(w.parameters)], ["tensors", String(w.tensors)], [dtypes.length > 3 ? `${dtypes.length} dtypes` : dtypes.join(", ") || "no dtype", bytes(w.bytes)],
    ["bits a weight", fixed(w.given_scales ?? w.joint, 2)], ["packed / stored", p && w.bytes ? (p.default / w.bytes).toFixed(3) : "–"],
    ["bits for 30 dB", w.bounds ? w.bounds.empirical["30"].toFixed(2) : "–"],
  ];
  $("cards").replaceChildren(...cards.map(([title, value]) => make("div", { class: "card" }, make("b", {}, value), make("span", { class: "quiet" }, title))));
  $("sizes").replaceChildren(p ? sizes(w.bytes, p) : make("p", { class: "quiet" }, "Not predicted."));
  if (w.bounds) $("sizes").append(make("figcaption", { class: "second" }, "Bits a weight needs ", make("span", { class: "quiet" }, "at a relative error of")),
    make("div", { class: "needs" }, ...["20", "30", "40"].map((db) => make("div", {}, make("b", {}, w.bounds.empirical[db].toFixed(2)), make("span", { class: "quiet" }, `${db} dB`)))));
  layers();
  advise();
  planned();
  table();
}
if (checkpoints.length > 1) {
  const select = $("checkpoint");
  checkpoints.forEach((one, k) => select.append(make("option", { value: k }, one.path)));
  select.hidden = false;
  select.addEventListener("change", () => show(checkpoints[Number(select.value)]));
}
if (checkpoints.length) show(checkpoints[0]);
