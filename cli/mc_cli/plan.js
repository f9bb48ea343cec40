"use strict";
// What `mc auto` said of the choices in this file; anything may be missing, or be of another type, in a plan that was edited.
const number = (x) => (Number.isFinite(x) ? x : null);
const record = (x) => (x !== null && typeof x === "object" && !Array.isArray(x) ? x : {});
const LEVELS = [ // columns of the choices; the last one says how close the decision was
  ["tensor", (t) => t.name, true], ["chosen", (t) => t.one.as, true], ["size", (t) => number(t.one.bytes), false, (x) => bytes(x)],
  ["loss", (t) => number(t.one.loss), false, (x) => figure(x)], ["bits", (t) => number(t.one.bits), false, (x) => fixed(x, 2)],
  ["bound", (t) => number(t.one.bound), false, (x) => fixed(x, 2)], ["loss / kB", (t) => number(t.one.per_kB), false, (x) => figure(x)],
  ["second", (t) => t.next.as, true], ["its size", (t) => number(t.next.bytes), false, (x) => bytes(x)],
  ["its loss", (t) => number(t.next.loss), false, (x) => figure(x)], ["dearer by", (t) => number(t.next.cost), false, (x) => (x < 100 ? `${(100 * x).toFixed(1)} %` : "far")],
];
let ordered = { column: 2, down: true };

function planned() {
  const found = current.plan;
  $("planned").hidden = !found;
  if (!found) return;
  $("plan").replaceChildren(...found.explanation.map((sentence) => make("li", {}, sentence)));
  const scores = found.plans[0].scores, rows = Array.isArray(scores) ? scores.filter(sound) : [];
  $("curve").replaceChildren(...(rows.length > 2 ? [curve(rows)] : []));
  choices();
}
const sound = (row) => Array.isArray(row) && row[0] > 0 && Number.isFinite(row[1]);
function choices() {
  const listed = current.plan.plans.flatMap((plan) => Object.entries(record(plan.tensors)))
    .map(([name, one]) => ({ name, one: record(one), next: record(record(one).next) }));
  $("choices").hidden = !listed.length;
  const value = LEVELS[ordered.column][1], sign = ordered.down ? -1 : 1;
  const missing = (x) => x === null || x === undefined;
  listed.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (missing(x) || missing(y)) return missing(x) - missing(y);
    return sign * (typeof x === "string" ? x.localeCompare(String(y)) : x - y);
  });
  const heads = LEVELS.map(([title, , text], k) => {
    const on = ordered.column === k;
    return make("th", { class: text ? "text" : "", scope: "col", "aria-sort": on ? (ordered.down ? "descending" : "ascending") : null },
      make("button", { type: "button", "data-order": k, onclick: () => { ordered = { column: k, down: on ? !ordered.down : !text }; choices(); } }, title + (on ? (ordered.down ? " ↓" : " ↑") : "")));
  });
  const table = $("choices").querySelector("table");
  table.tHead.replaceChildren(make("tr", {}, ...heads));
  table.tBodies[0].replaceChildren(...listed.map((t) => make("tr", {}, ...LEVELS.map(([, of, text, told = String]) => {
    const x = of(t);
    return make("td", { class: text ? "text" : "", title: text && !missing(x) ? x : null }, missing(x) ? "–" : told(x));
  }))));
}

// Scores by size, the original's first: dots for what was tried, a dashed line for what nothing may fall far below.
function curve([[whole, original], ...rows]) {
  const span = (k, also) => { const all = [...rows.map((row) => row[k]), ...also]; return [Math.min(...all), Math.max(...all)]; };
  const [[small, large], [low, high]] = [span(0, []), span(1, [original])];
  const x = (size) => 52 + (530 * Math.log(size / small)) / (Math.log(large / small) || 1);
  const y = (score) => 148 - (128 * (score - low)) / (high - low || 1);
  const said = ([size, score, passed]) => `${bytes(size)}: ${figure(score, 5)}, ${passed === true ? "within" : "beyond"} the limit`;
  const dots = rows.map((row) => make("circle", {
    cx: x(row[0]).toFixed(1), cy: y(row[1]).toFixed(1), r: 4.5, style: { fill: `var(${row[2] === true ? "--accent" : "--panel"})`, stroke: "var(--accent)" }, "data-tip": said(row),
  }));
  const line = rows.slice().sort((a, b) => a[0] - b[0]).map((row) => `${x(row[0]).toFixed(1)},${y(row[1]).toFixed(1)}`).join(" ");
  const label = (at, across, anchor, text) => make("text", { class: "axis", x: across, y: at, "text-anchor": anchor }, text);
  return make("figure", {}, make("figcaption", {}, "Score against size ", make("span", { class: "quiet" }, "filled: within the limit")),
    make("svg", { viewBox: "0 0 600 176", role: "img", "aria-label": "Score against size" },
      make("line", { x1: 52, x2: 590, y1: y(original).toFixed(1), y2: y(original).toFixed(1), class: "rule", "stroke-dasharray": "4 4", style: { stroke: "var(--quiet)" } }),
      make("polyline", { points: line, class: "curve", style: { stroke: "var(--accent-soft)" } }), ...dots,
      label(y(original) - 5, 590, "end", `the original, ${bytes(whole)}: ${figure(original, 4)}`),
      label(y(low) + 4, 46, "end", figure(low, 4)), label(y(high) + 4, 46, "end", high > low ? figure(high, 4) : ""),
      label(170, 52, "start", bytes(small)), label(170, 582, "end", bytes(large))));
}
