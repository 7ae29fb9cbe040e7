// Helpers. Whatever comes from the data goes into the page as a text node or a plain attribute, never as markup.
const D = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;

const add = (node, kids) => {
  for (const kid of kids.flat(3)) {
    if (kid !== null && kid !== undefined && kid !== false) node.append(kid instanceof Node ? kid : String(kid));
  }
  return node;
};
const furnish = (node, props) => {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  return node;
};
const el = (tag, props = {}, ...kids) => add(furnish(document.createElement(tag), props), kids);
const svg = (tag, props = {}, ...kids) => add(furnish(document.createElementNS("http://www.w3.org/2000/svg", tag), props), kids);
const say = (text, kind = "") => el("span", { class: `text ${kind}`, dir: "auto" }, text === "" ? "(empty)" : text);

// The text with the places marked where it has the words that are searched for.
const found = (text, query) => {
  const low = text.toLowerCase(), q = query.toLowerCase();
  if (!q || low.length !== text.length) return say(text); // a few letters change length in lower case
  const parts = [];
  let at = 0;
  for (let next = low.indexOf(q); next >= 0; next = low.indexOf(q, at)) {
    parts.push(text.slice(at, next), el("mark", {}, text.slice(next, next + q.length)));
    at = next + q.length;
  }
  return el("span", { class: "text", dir: "auto" }, parts, text.slice(at));
};

// A sentence with the words that come (in) and go (out) between it and another: runs of [kind, words].
const changed = (changes, kinds) => el("span", { class: "text", dir: "auto" }, changes.filter(([kind]) => kind === "same" || kinds.includes(kind))
  .map(([kind, words], i) => [i ? " " : "", kind === "same" ? words : el(kind === "in" ? "ins" : "del", {}, words)]));

const number = (value, digits = 4) => {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
};
const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)}%`);
const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const redraws = []; // called when the theme changes

// -- colours -----------------------------------------------------------------------------------------------------
// Eight hues that stay apart for colour-blind readers (after Okabe & Ito 2008), three lightnesses and six shapes:
// 144 marks. Beyond eight, the shape and the name on hover tell codes apart, not the colour alone.
const HUES = {
  light: ["#0072b2", "#d98e00", "#00875f", "#cf4f00", "#3fa0dc", "#b8568c", "#857800", "#565c66"],
  dark: ["#4aa3e8", "#f0b23c", "#2cc295", "#f27b3a", "#8fd0fa", "#e597c2", "#cfc04a", "#b3bac5"],
};
const SHAPES = 6;
const isDark = () => root.dataset.theme === "dark" ||
  (root.dataset.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
const mix = (a, b, share) => {
  const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const [x, y] = [parts(a), parts(b)];
  return `#${x.map((v, i) => Math.round(v + (y[i] - v) * share).toString(16).padStart(2, "0")).join("")}`;
};
const mark = (index) => {
  if (index < 0) return { colour: css("--faint"), shape: 0 };
  const tier = Math.floor(index / 8), dark = isDark();
  const tone = (tier + Math.floor(tier / SHAPES)) % 3;
  const base = HUES[dark ? "dark" : "light"][index % 8];
  const colour = tone === 0 ? base : mix(base, (tone === 1) === dark ? "#ffffff" : "#000000", 0.38);
  return { colour, shape: tier % SHAPES };
};
// Viridis, without the end that the background would swallow.
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const ramp = (share) => {
  const at = (isDark() ? 2 + share * 7 : share * 7.6), low = Math.min(8, Math.floor(at));
  return mix(VIRIDIS[low], VIRIDIS[low + 1], Math.min(1, at - low));
};
const trace = (ctx, shape, x, y, r) => {
  if (shape === 0) { ctx.moveTo(x + r, y); ctx.arc(x, y, r, 0, 7); return; }
  if (shape === 1) { ctx.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8); return; }
  if (shape === 4) { // plus
    const a = r * 1.25, b = r * 0.42;
    ctx.rect(x - a, y - b, 2 * a, 2 * b); ctx.rect(x - b, y - a, 2 * b, 2 * a); return;
  }
  const corners = { 2: [[0, -1.3], [1.15, 0.8], [-1.15, 0.8]], 3: [[0, -1.35], [1.35, 0], [0, 1.35], [-1.35, 0]],
    5: [[0, 1.3], [1.15, -0.8], [-1.15, -0.8]] }[shape];
  corners.forEach(([dx, dy], i) => ctx[i ? "lineTo" : "moveTo"](x + dx * r, y + dy * r));
  ctx.closePath();
};
// A path as SVG writes it, by the calls of a canvas.
const recorder = () => {
  const d = [], f = (v) => Number(v.toFixed(2));
  return {
    moveTo: (x, y) => d.push(`M${f(x)} ${f(y)}`), lineTo: (x, y) => d.push(`L${f(x)} ${f(y)}`), closePath: () => d.push("z"),
    rect: (x, y, w, h) => d.push(`M${f(x)} ${f(y)}h${f(w)}v${f(h)}h${f(-w)}z`),
    arc: (x, y, r) => d.push(`M${f(x - r)} ${f(y)}a${f(r)} ${f(r)} 0 1 0 ${f(2 * r)} 0a${f(r)} ${f(r)} 0 1 0 ${f(-2 * r)} 0z`),
    text: () => d.join(""),
  };
};
// The mark as a small picture beside a name.
const swatch = (index) => {
  const { colour, shape } = mark(index), path = recorder();
  trace(path, shape, 8, 8, 5);
  return svg("svg", { class: "swatch", viewBox: "0 0 16 16", "aria-hidden": "true", "data-mark": index }, svg("path", { d: path.text(), fill: colour }));
};
redraws.push(() => document.querySelectorAll(".swatch").forEach((each) => each.firstChild.setAttribute("fill", mark(Number(each.dataset.mark)).colour)));

// -- small charts ------------------------------------------------------------------------------------------------
// The least of 1, 1.5, 2, … times a power of ten that is not below the value.
const round = (value) => {
  if (!(value > 0)) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.9999);
};
// A figure with its axes: the scale begins at 0 unless values lie on both sides of it.
const chart = ({ title, last, note, x, ticks, W, H, said }, ...marks) => el("figure", { class: "chart" },
  el("figcaption", {}, el("b", {}, title), last ? el("span", { class: "last" }, last) : null, el("span", { class: "muted block" }, note)),
  svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": said },
    ticks.map(([y, text]) => [svg("line", { class: "axis", x1: 40, x2: W - 6, y1: y, y2: y }), svg("text", { x: 36, y: y + 4, "text-anchor": "end" }, text)]),
    marks, svg("text", { x: 40, y: H - 16 }, x[0]), svg("text", { x: W - 6, y: H - 16, "text-anchor": "end" }, x[2]),
    svg("text", { class: "axistitle", x: (W + 34) / 2, y: H - 3, "text-anchor": "middle" }, x[1])));
const lineChart = ({ title, unit, points, verticals = [], range = null, across = "step", diagonal = false }) => {
  const W = 300, H = 152, L = 40, R = 6, T = 8, B = 34;
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const x0 = Math.min(...xs, ...verticals), x1 = Math.max(...xs, ...verticals);
  const [y0, y1] = range || (unit.startsWith("share") ? [0, 1] : [-round(-Math.min(...ys)), round(Math.max(...ys))]);
  const X = (x) => (x1 === x0 ? (L + W - R) / 2 : L + ((x - x0) / (x1 - x0)) * (W - L - R));
  const Y = (y) => T + (y1 === y0 ? 0.5 : 1 - (y - y0) / (y1 - y0)) * (H - T - B);
  const ends = points[points.length - 1], path = points.map((p, i) => `${i ? "L" : "M"}${X(p[0]).toFixed(1)} ${Y(p[1]).toFixed(1)}`).join("");
  return chart({ title, last: number(ends[1], 3), note: unit, x: [number(x0), across, number(x1)], W, H,
    ticks: [...new Set([y0, (y0 + y1) / 2, y1])].map((y) => [Y(y), number(y, 3)]),
    said: `${title}, ${unit}, by ${across}: from ${number(points[0][1])} to ${number(ends[1])}` },
    verticals.map((x) => svg("line", { class: "rule", x1: X(x), x2: X(x), y1: T, y2: H - B })),
    diagonal ? svg("line", { class: "rule", x1: X(x0), y1: Y(x0), x2: X(x1), y2: Y(x1) }) : null,
    svg("path", { class: "line", d: path }),
    points.map((p) => svg("circle", { class: "dot", cx: X(p[0]), cy: Y(p[1]), r: 2.2 }, svg("title", {}, `${number(p[0])}: ${number(p[1])}`))));
};
// A histogram that was counted before: shares of each series over the same bins from low to high.
const histogram = ({ title, note, low, high, series, across }) => {
  // The means may pile up in a bin or two: their peak is cut, and said, so that the other two are seen.
  const W = 300, H = 142, L = 40, R = 6, T = 8, B = 34, bins = series[0].length, step = (W - L - R) / bins;
  const top = round(Math.max(1e-9, ...series.slice(1).flat())), peak = Math.max(...series[0]);
  const Y = (share) => H - B - Math.min(1, share / top) * (H - T - B);
  const outline = (shares) => shares.map((share, i) => `${i ? "L" : "M"}${(L + i * step).toFixed(1)} ${Y(share).toFixed(1)}L${(L + (i + 1) * step).toFixed(1)} ${Y(share).toFixed(1)}`).join("");
  return chart({ title, last: null, note: peak > top ? `${note}; means up to ${percent(peak)}, cut` : note, x: [number(low, 3), across, number(high, 3)], W, H,
    ticks: [[Y(0), "0%"], [Y(top), `${number(100 * top, 2)}%`]], said: `${title}: ${note}, from ${number(low, 3)} to ${number(high, 3)}` },
    series.map((shares, i) => svg("path", { class: `hist hist${i}`, d: outline(shares) })));
};
const bar = (share, title = null) => {
  const inner = el("i");
  inner.style.inlineSize = `${Math.round(1000 * share) / 10}%`;
  return el("span", { class: "meter", title }, inner);
};
const choice = (label, options, change) => {
  const select = el("select", { change: () => change(select.value) }, options.map(([value, name]) => el("option", { value }, name)));
  return el("label", { class: "field" }, el("span", {}, label), select);
};
const tabs = (names, change) => {
  const buttons = names.map((name, i) => el("button", { type: "button", dir: "auto", "aria-pressed": String(i === 0), click: () => pick(i) }, name));
  const pick = (i) => { buttons.forEach((b, j) => b.setAttribute("aria-pressed", String(i === j))); change(i); };
  return { node: names.length > 1 ? el("div", { class: "tabs", role: "group" }, buttons) : null, pick };
};
// A file for the person: nothing leaves the machine.
const download = (name, type, content) => {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  el("a", { href: url, download: name.replace(/[^\w.-]+/g, "-") }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
};
