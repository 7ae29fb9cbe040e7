// The latent map: two canvases, one for the points and one above it for what follows the pointer.
// What it draws goes through a pen, so that the same picture is on the screen, in a file, and on paper.
const canvasPen = (ctx) => ({
  fill: (colour, alpha, path) => { ctx.globalAlpha = alpha; ctx.fillStyle = colour; ctx.beginPath(); path(ctx); ctx.fill(); ctx.globalAlpha = 1; },
  line: (colour, path) => { ctx.lineWidth = 1.3; ctx.strokeStyle = colour; ctx.beginPath(); path(ctx); ctx.stroke(); },
  label: (text, x, y, { colour, halo, font, anchor = "center" }) => {
    ctx.font = font; ctx.textAlign = anchor; ctx.textBaseline = "middle"; ctx.lineJoin = "round";
    ctx.lineWidth = 4; ctx.strokeStyle = halo; ctx.strokeText(text, x, y);
    ctx.fillStyle = colour; ctx.fillText(text, x, y);
  },
});
const svgPen = (parent) => ({
  fill: (colour, alpha, path) => { const d = recorder(); path(d); parent.append(svg("path", { d: d.text(), fill: colour, "fill-opacity": alpha })); },
  line: (colour, path) => { const d = recorder(); path(d); parent.append(svg("path", { d: d.text(), fill: "none", stroke: colour, "stroke-width": 1.3 })); },
  label: (text, x, y, { colour, halo, font, anchor = "center" }) => {
    const [weight, size, ...family] = font.split(" ");
    parent.append(svg("text", { x, y, fill: colour, stroke: halo, "stroke-width": 4, "stroke-linejoin": "round", "paint-order": "stroke", "font-weight": weight,
      "font-size": size, "font-family": family.join(" "), "text-anchor": anchor === "center" ? "middle" : "start", "dominant-baseline": "central" }, text));
  },
});
const FONT = "600 12.5px system-ui, sans-serif";

const latentMap = () => {
  const n = D.points.text.length, P = D.points;
  const state = { map: D.maps[D.maps.length - 1], colour: null, only: new Set(), query: "", picked: null, samples: false, names: true, move: false, zoom: [1, 0, 0], at: -1 };
  const base = el("canvas", { "aria-hidden": "true" });
  const over = el("canvas", { tabindex: 0, role: "application", "aria-label":
    "Latent map. Arrow keys go from point to point, Enter selects the point, + and - zoom, Escape clears." });
  const tip = document.getElementById("tip");
  const legend = el("div", { class: "legend" }), list = el("div", { class: "list" }), note = el("p", { class: "muted small" });
  const frame = el("div", { class: "plot" }, base, over);

  // What can be coloured: classes (values are numbers of names) or a scale.
  const colours = [];
  for (const head of D.heads) colours.push({ name: head.found ? `Code: ${head.name}` : `Predicted ${head.name}`, classes: head.classes, values: P.code[head.name], head });
  for (const label of D.labels) colours.push({ name: `Label: ${label.name}`, classes: label.classes, values: P.label[label.name] });
  for (const a of D.attributes) colours.push({ name: `Added: ${a.name}`, classes: a.classes, values: a.codes });
  if (P.energy) colours.push({ name: "Energy −F(z)", values: P.energy, extra: D.samples.energy, unit: "nats" });
  colours.push({ name: "Reconstruction loss", values: P.loss, unit: "nats" });
  for (const head of D.heads) colours.push({ name: `Confidence: ${head.name}`, values: P.confidence[head.name], unit: "p" });
  state.colour = colours[Math.max(0, D.heads.findIndex((head) => head.found))];

  let xs, ys, sx, sy, cells, active, width = 0, height = 0, RADIUS = 3;
  const CELL = 18;

  const scale = (c) => {
    const sorted = c.values.filter((v) => v !== null).sort((a, b) => a - b);
    const low = sorted[Math.floor(sorted.length * 0.02)], high = sorted[Math.ceil(sorted.length * 0.98) - 1];
    return { low, high, share: (v) => (high > low ? Math.max(0, Math.min(1, (v - low) / (high - low))) : 0.5) };
  };
  const lowered = P.text.map((t) => t.toLowerCase());
  const choose = () => {
    const q = state.query.toLowerCase();
    active = new Uint8Array(n);
    for (let i = 0; i < n; i++) {
      active[i] = (!q || lowered[i].includes(q)) && (!state.picked || state.picked.has(i)) &&
        (!state.only.size || (state.colour.classes && state.only.has(state.colour.values[i]))) ? 1 : 0;
    }
  };
  const place = () => {
    const m = state.map, [zoom, zx, zy] = state.zoom;
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    const see = (a, i) => { x0 = Math.min(x0, a[2 * i]); x1 = Math.max(x1, a[2 * i]); y0 = Math.min(y0, a[2 * i + 1]); y1 = Math.max(y1, a[2 * i + 1]); };
    for (let i = 0; i < n; i++) see(m.points, i);
    for (let i = 0; i < m.samples.length / 2; i++) see(m.samples, i);
    const k = Math.min((width - 32) / (x1 - x0 || 1), (height - 32) / (y1 - y0 || 1)); // one scale for both axes
    const cx = (x0 + x1) / 2, cy = (y0 + y1) / 2;
    const X = (x) => (width / 2 + (x - cx) * k) * zoom + zx, Y = (y) => (height / 2 - (y - cy) * k) * zoom + zy;
    xs = Float32Array.from({ length: n }, (_, i) => X(m.points[2 * i])); ys = Float32Array.from({ length: n }, (_, i) => Y(m.points[2 * i + 1]));
    const count = m.samples.length / 2;
    sx = Float32Array.from({ length: count }, (_, i) => X(m.samples[2 * i])); sy = Float32Array.from({ length: count }, (_, i) => Y(m.samples[2 * i + 1]));
    cells = new Map();
    const put = (x, y, i) => { const key = Math.floor(x / CELL) * 4096 + Math.floor(y / CELL); if (!cells.has(key)) cells.set(key, []); cells.get(key).push(i); };
    for (let i = 0; i < n; i++) put(xs[i], ys[i], i);
    for (let i = 0; i < count; i++) put(sx[i], sy[i], n + i);
  };
  // One sentence that is picked leaves the others as they are; more of them, or a search, put out the rest.
  const focus = () => (state.picked && state.picked.size === 1 && !state.query ? [...state.picked][0] : -1);
  const lit = (i) => active[i] || (focus() >= 0 && (!state.only.size || state.only.has(state.colour.values[i])));
  const px = (i) => (i < n ? xs[i] : sx[i - n]), py = (i) => (i < n ? ys[i] : sy[i - n]);
  const shows = (x, y) => x > -9 && y > -9 && x < width + 9 && y < height + 9;
  const nearest = (x, y) => {
    let best = -1, least = 15 * 15;
    const cx = Math.floor(x / CELL), cy = Math.floor(y / CELL);
    for (let a = cx - 1; a <= cx + 1; a++) for (let b = cy - 1; b <= cy + 1; b++) {
      for (const i of cells.get(a * 4096 + b) || []) {
        if (i < n ? !lit(i) : !state.samples) continue;
        const far = (px(i) - x) ** 2 + (py(i) - y) ** 2;
        if (far < least) { least = far; best = i; }
      }
    }
    return best;
  };
  // Where the name of each class stands: amid the place that has most of its points; none covers another.
  const labels = () => {
    const c = state.colour, size = Math.max(40, width / 10), classes = new Map();
    if (!state.names || !c.classes) return [];
    for (let i = 0; i < n; i++) {
      if (!lit(i) || c.values[i] < 0 || !shows(xs[i], ys[i])) continue;
      if (!classes.has(c.values[i])) classes.set(c.values[i], []);
      classes.get(c.values[i]).push(i);
    }
    const ctx = base.getContext("2d"), placed = [];
    ctx.font = FONT;
    for (const [value, own] of [...classes].sort((a, b) => b[1].length - a[1].length).slice(0, 80)) {
      const counts = new Map(), at = (i) => [Math.round(xs[i] / size), Math.round(ys[i] / size)];
      for (const i of own) { const key = at(i).join(); counts.set(key, (counts.get(key) || 0) + 1); }
      const [mx, my] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a))[0].split(",").map(Number);
      const near = own.filter((i) => { const [x, y] = at(i); return Math.abs(x - mx) < 2 && Math.abs(y - my) < 2; });
      const mean = (values) => near.reduce((sum, i) => sum + values[i], 0) / near.length;
      const full = c.classes[value], text = full.length > 34 ? `${full.slice(0, 33)}…` : full, half = ctx.measureText(text).width / 2 + 5;
      const x = Math.max(half, Math.min(width - half, mean(xs)));
      const y = [0, 18, -18, 36, -36].map((d) => Math.max(10, Math.min(height - 10, mean(ys) + d)))
        .find((y) => placed.every((other) => Math.abs(other.x - x) > other.half + half || Math.abs(other.y - y) > 16));
      if (y !== undefined && half < width / 2) placed.push({ text, x, y, half });
    }
    return placed;
  };
  const paint = (pen) => {
    const c = state.colour, groups = new Map(), s = c.classes ? null : scale(c);
    for (let i = 0; i < n; i++) {
      if (!shows(xs[i], ys[i])) continue;
      const v = c.values[i], key = (lit(i) ? 100000 : 0) + (v === null ? -1 : s ? Math.round(s.share(v) * 63) : v);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(i);
    }
    // Grey ones lowest; then of classes the common ones, so that no rare one is covered; of a scale the low values.
    const rank = (key) => (key >= 99000 ? (s ? key : 1e9 - groups.get(key).length) : -1);
    for (const key of [...groups.keys()].sort((a, b) => rank(a) - rank(b) || a - b)) {
      const bright = key >= 99000, value = bright ? key - 100000 : key;
      const look = s ? { colour: value < 0 ? css("--faint") : ramp(value / 63), shape: 0 } : mark(value);
      pen.fill(bright ? look.colour : css("--faint"), bright ? 0.82 : 0.3, (ctx) => { for (const i of groups.get(key)) trace(ctx, look.shape, xs[i], ys[i], bright ? RADIUS : RADIUS * 0.8); });
    }
    if (state.samples) pen.line(css("--ink"), (ctx) => { for (let i = 0; i < sx.length; i++) if (shows(sx[i], sy[i])) trace(ctx, 3, sx[i], sy[i], 3.4); });
    for (const { text, x, y } of labels()) pen.label(text, x, y, { colour: css("--ink"), halo: css("--panel"), font: FONT });
  };
  const draw = () => {
    if (!width) return;
    const ctx = base.getContext("2d"), ratio = devicePixelRatio || 1;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    paint(canvasPen(ctx));
  };
  // The picture as it stands, with its legend beside it: for a file, or for paper.
  const HEAD = 34, STEP = 20;
  const entries = () => {
    const c = state.colour, counts = new Map();
    if (!c.classes) { const s = scale(c); return [0, 0.25, 0.5, 0.75, 1].map((share) => [ramp(share), 1, `${number(s.low + share * (s.high - s.low), 3)} ${c.unit}`]); }
    for (const v of c.values) counts.set(v, (counts.get(v) || 0) + 1);
    return [...counts].filter(([v]) => v >= 0).sort((a, b) => b[1] - a[1]).slice(0, Math.floor((height - 8) / STEP)).map(([v, count]) => {
      const look = mark(v);
      return [look.colour, look.shape, `${c.classes[v]} (${number(count)})`];
    });
  };
  const side = () => { const ctx = base.getContext("2d"); ctx.font = "400 12.5px system-ui, sans-serif"; return 44 + Math.max(...entries().map((e) => ctx.measureText(e[2]).width)); };
  const compose = (pen, wide) => {
    const words = { colour: css("--ink"), halo: css("--panel"), anchor: "left" };
    pen.fill(css("--panel"), 1, (ctx) => ctx.rect(0, 0, wide, height + HEAD));
    paint(pen);
    pen.fill(css("--panel"), 1, (ctx) => { ctx.rect(width, 0, wide - width, height + HEAD); ctx.rect(0, height, wide, HEAD); });
    entries().forEach(([colour, shape, text], i) => {
      pen.fill(colour, 1, (ctx) => trace(ctx, shape, width + 14, 18 + i * STEP, 5));
      pen.label(text, width + 28, 18 + i * STEP, { ...words, font: "400 12.5px system-ui, sans-serif" });
    });
    pen.label(`${D.run.name}, ${state.colour.name.toLowerCase()}. ${state.map.note}`, 14, height + HEAD / 2, { ...words, colour: css("--muted"), font: "400 11px system-ui, sans-serif" });
  };
  const vector = () => {
    const wide = Math.ceil(width + side()), made = svg("svg", { viewBox: `0 0 ${wide} ${height + HEAD}`, width: wide, height: height + HEAD });
    compose(svgPen(made), wide);
    return made;
  };
  const save = (kind) => {
    const name = `${D.run.name}-map.${kind}`;
    if (kind === "svg") { download(name, "image/svg+xml", new XMLSerializer().serializeToString(vector())); return; }
    const wide = Math.ceil(width + side()), canvas = el("canvas", { width: 2 * wide, height: 2 * (height + HEAD) }), ctx = canvas.getContext("2d");
    ctx.scale(2, 2);
    compose(canvasPen(ctx), wide);
    canvas.toBlob((blob) => download(name, "image/png", blob));
  };

  const near = (i) => {
    const seen = new Set([P.text[i]]);
    return P.near[i].filter((j) => !seen.has(P.text[j]) && seen.add(P.text[j])).slice(0, 5);
  };
  const pointer = (lasso = null) => {
    const ctx = over.getContext("2d"), ratio = devicePixelRatio || 1;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    ctx.strokeStyle = css("--ink");
    const ring = (i, r, w) => { ctx.lineWidth = w; ctx.beginPath(); ctx.arc(px(i), py(i), RADIUS + r, 0, 7); ctx.stroke(); };
    if (focus() >= 0) { ring(focus(), 5, 2.5); for (const j of near(focus())) ring(j, 3, 1.2); }
    if (lasso) {
      ctx.setLineDash([5, 4]); ctx.lineWidth = 1.5; ctx.fillStyle = css("--wash"); ctx.beginPath();
      lasso.forEach(([x, y], i) => ctx[i ? "lineTo" : "moveTo"](x, y));
      ctx.closePath(); ctx.fill(); ctx.stroke(); ctx.setLineDash([]);
    } else if (state.at >= 0) ring(state.at, 4, 2);
  };
  const facts = (i) => [
    D.heads.map((head) => [head.name, `${head.classes[P.code[head.name][i]]} (${number(P.confidence[head.name][i], 2)})`]),
    D.attributes.map((a) => [a.name, `${a.classes[a.codes[i]]} (${number(a.confidence[i], 2)})`]),
    D.labels.map((label) => [`label ${label.name}`, label.classes[P.label[label.name][i]] ?? "none"]),
    [["reconstruction loss", `${number(P.loss[i], 3)} nats`]],
    P.energy ? [["energy", number(P.energy[i], 3)]] : [],
  ].flat();
  const tell = () => {
    pointer();
    const i = state.at;
    tip.hidden = i < 0;
    if (i < 0) return;
    const lines = i < n ? facts(i) : [["drawn from the prior", ""], ...(D.samples.energy ? [["energy", number(D.samples.energy[i - n], 3)]] : [])];
    tip.replaceChildren(say(i < n ? P.text[i] : D.samples.text[i - n], "strong"),
      el("dl", {}, lines.map(([k, v]) => el("div", {}, el("dt", { dir: "auto" }, k), el("dd", { dir: "auto" }, v)))));
    const box = over.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const x = box.left + px(i), y = box.top + py(i);
    tip.style.left = `${Math.max(8, Math.min(innerWidth - size.width - 8, x + 14))}px`;
    tip.style.top = `${y + size.height + 24 > innerHeight ? Math.max(8, y - size.height - 14) : y + 14}px`;
  };
  const table = (rows) => {
    // A cell that a spreadsheet would take for a formula gets an apostrophe before it.
    const cell = (v) => { const text = typeof v === "string" && /^ *[=+\-@\t\r\n＝＋－＠]/.test(v) ? `'${v}` : String(v ?? ""); return `"${text.replaceAll('"', '""')}"`; };
    const columns = [["text", (i) => P.text[i]], ...D.heads.flatMap((h) => [[h.found ? h.name : `predicted ${h.name}`, (i) => h.classes[P.code[h.name][i]]], [`${h.name} confidence`, (i) => P.confidence[h.name][i]]]),
      ...D.labels.map((l) => [l.name, (i) => l.classes[P.label[l.name][i]] ?? ""]), ...D.attributes.map((a) => [a.name, (i) => a.classes[a.codes[i]]]), ["loss", (i) => P.loss[i]]];
    return [columns.map((c) => cell(c[0])).join(), ...rows.map((i) => columns.map((c) => cell(c[1](i))).join())].join("\r\n") + "\r\n";
  };
  const enumerate = () => {
    const rows = [], c = state.colour, asked = state.query || state.picked || state.only.size, many = state.picked ? state.picked.size : 0;
    for (let i = 0; asked && i < n; i++) if (active[i]) rows.push(i);
    const line = (i) => el("li", { mouseenter: () => { state.at = i; pointer(); }, mouseleave: () => { state.at = -1; pointer(); }, click: () => pick([i], false) },
      c.classes ? swatch(c.values[i]) : null, found(P.text[i], state.query),
      el("span", { class: "muted small", dir: "auto" }, c.classes ? (c.classes[c.values[i]] ?? "none") : number(c.values[i], 3)));
    const quiet = (text, click) => el("button", { type: "button", class: "quiet", click }, text);
    const within = state.query && many > 1;
    list.replaceChildren(
      el("div", { class: "listhead" }, el("b", { "aria-live": "polite" }, asked ? `${plural(rows.length, "sentence")}${within ? ` of the ${number(many)} drawn around` : ""}` : "Nothing selected"),
        asked ? quiet("Clear", () => clearAll()) : null,
        within ? quiet("Search all", () => { state.picked = null; refresh(); }) : null,
        many > 1 ? quiet("Zoom in", () => { zoomTo([...state.picked]); }) : null,
        rows.length ? quiet("Export CSV", () => download(`${D.run.name}-selection.csv`, "text/csv", `\ufeff${table(rows)}`)) : null),
      asked ? el("ol", {}, rows.slice(0, 100).map(line)) : el("p", { class: "muted" }, "Click a point, draw around some, pick a name in the legend, or search. The wheel or two fingers zoom."),
      ...(focus() >= 0 ? [el("h4", {}, "Its nearest in the latent"), el("ol", {}, near(focus()).map(line))] : []),
      rows.length > 100 ? el("p", { class: "muted small" }, "The first 100 are listed; the export has all.") : "");
    search.placeholder = many > 1 ? `among the ${number(many)} drawn around` : "words of a sentence";
  };
  const explain = () => {
    const c = state.colour;
    if (!c.classes) {
      const s = scale(c), strip = el("span", { class: "strip" });
      strip.style.background = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(ramp).join(", ")})`;
      legend.replaceChildren(el("span", { class: "small" }, number(s.low, 3)), strip, el("span", { class: "small" }, `${number(s.high, 3)} ${c.unit}`));
      return;
    }
    const counts = new Map();
    for (const v of c.values) counts.set(v, (counts.get(v) || 0) + 1);
    const order = c.classes.map((_, i) => i);
    if (counts.has(-1)) order.push(-1);
    legend.replaceChildren(...order.map((i) => el("button", {
      type: "button", class: "chip", "aria-pressed": String(state.only.has(i)), title: "Show only these",
      click: () => { state.only.has(i) ? state.only.delete(i) : state.only.add(i); refresh(); },
    }, swatch(i), el("span", { dir: "auto" }, i < 0 ? "no label" : c.classes[i]), el("span", { class: "muted" }, number(counts.get(i) || 0)))));
  };
  // The address says what is shown, so that it can be passed on: #code=3, #sentence=12.
  const address = () => {
    const [only] = state.only, head = state.colour.head;
    const at = focus() >= 0 ? `sentence=${focus()}` : state.only.size === 1 && head ? `${encodeURIComponent(head.name)}=${only}` : "";
    if (at ? location.hash !== `#${at}` : location.hash.includes("=")) history.replaceState(null, "", at ? `#${at}` : location.pathname);
  };
  const refresh = (moved = false) => {
    if (moved) place();
    choose(); draw(); explain(); enumerate(); pointer();
    note.textContent = `${state.map.note}${state.zoom[0] > 1 ? ` Zoomed ${number(state.zoom[0], 2)}×.` : ""}`;
    if (ready) address();
  };
  const clearAll = () => {
    Object.assign(state, { picked: null, query: "", zoom: [1, 0, 0], at: -1 });
    state.only.clear(); search.value = "";
    tip.hidden = true;
    refresh(true);
  };
  const zoomBy = (factor, x, y, dx = 0, dy = 0) => {
    const [k, zx, zy] = state.zoom, next = Math.max(1, Math.min(60, k * factor)), r = next / k;
    const keep = (at, size) => Math.max(size * (1 - next), Math.min(0, at)); // the map stays in its frame
    state.zoom = [next, keep(x - (x - zx) * r + dx, width), keep(y - (y - zy) * r + dy, height)];
    state.at = -1; tip.hidden = true;
    refresh(true);
  };
  const zoomTo = (rows) => {
    const [k] = state.zoom, ends = (a) => rows.reduce(([low, high], i) => [Math.min(low, a[i]), Math.max(high, a[i])], [Infinity, -Infinity]);
    const [x0, x1] = ends(xs), [y0, y1] = ends(ys), more = Math.min(60 / k, (0.85 * width) / Math.max(1, x1 - x0), (0.85 * height) / Math.max(1, y1 - y0));
    zoomBy(more, (x0 + x1) / 2, (y0 + y1) / 2, width / 2 - (x0 + x1) / 2, height / 2 - (y0 + y1) / 2);
  };
  const fit = () => {
    const box = frame.getBoundingClientRect(), ratio = devicePixelRatio || 1;
    if (!box.width || (box.width === width && box.height === height)) return;
    [width, height] = [box.width, box.height];
    state.zoom = [1, 0, 0];
    RADIUS = (n > 8000 ? 2.1 : n > 1500 ? 2.8 : 4) * (width < 500 ? 0.72 : 1);
    for (const canvas of [base, over]) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
    refresh(true);
  };

  const inside = (x, y, lasso) => {
    let odd = false;
    for (let i = 0, j = lasso.length - 1; i < lasso.length; j = i++) {
      const [ax, ay] = lasso[i], [bx, by] = lasso[j];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
    }
    return odd;
  };
  const pick = (rows, more) => {
    state.picked = new Set([...(more && state.picked ? state.picked : []), ...rows]);
    if (!state.picked.size) state.picked = null;
    refresh();
  };
  // One finger or button draws around points (or moves the map), two fingers zoom and move.
  let lasso = null, armed = false;
  const fingers = new Map();
  const where = (event) => { const box = over.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  const middle = () => { const all = [...fingers.values()], [a, b] = all; return { x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2, far: Math.hypot(a[0] - b[0], a[1] - b[1]) }; };
  const finish = (event, drawn) => {
    if (drawn.length > 3 && !state.move) {
      const rows = [];
      for (let i = 0; i < n; i++) if (inside(xs[i], ys[i], drawn) && (event.shiftKey || active[i] || state.picked)) rows.push(i);
      pick(rows, event.shiftKey);
    } else if (drawn.length <= 3) {
      const at = nearest(...drawn[0]);
      if (at >= 0 && at < n) pick([at], event.shiftKey);
      else if (at < 0 && state.picked) pick([], false);
      state.at = at; tell();
    }
  };
  const lift = (event) => { fingers.delete(event.pointerId); lasso = null; pointer(); };
  furnish(over, {
    pointerdown: (event) => {
      if (event.button !== 0) return;
      fingers.set(event.pointerId, where(event));
      lasso = fingers.size === 1 ? [where(event)] : null;
      over.setPointerCapture(event.pointerId);
    },
    pointermove: (event) => {
      const [x, y] = where(event);
      armed = true;
      if (fingers.size === 2 && fingers.has(event.pointerId)) {
        const before = middle();
        fingers.set(event.pointerId, [x, y]);
        const now = middle();
        zoomBy(now.far / Math.max(1, before.far), before.x, before.y, now.x - before.x, now.y - before.y);
        return;
      }
      if (lasso) {
        const [lx, ly] = lasso[lasso.length - 1];
        if ((x - lx) ** 2 + (y - ly) ** 2 > 9) {
          lasso.push([x, y]);
          if (state.move) zoomBy(1, 0, 0, x - lx, y - ly);
        }
        if (lasso.length > 3) { tip.hidden = true; pointer(state.move ? null : lasso); }
        return;
      }
      const at = nearest(x, y);
      if (at !== state.at) { state.at = at; tell(); }
    },
    pointerup: (event) => { const drawn = lasso; lift(event); if (drawn) finish(event, drawn); },
    pointercancel: lift,
    pointerleave: () => { if (!lasso) { state.at = -1; tell(); } },
    blur: () => { state.at = -1; tell(); },
    dblclick: (event) => zoomBy(2, ...where(event)),
    // The wheel zooms where the pointer has moved on the map; where the page is scrolled past it, it goes on scrolling.
    wheel: (event) => {
      const factor = Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016));
      if ((!armed && !event.ctrlKey) || (factor < 1 && state.zoom[0] === 1)) return;
      event.preventDefault();
      zoomBy(factor, ...where(event));
    },
    keydown: (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      const amid = state.at < 0 ? [width / 2, height / 2] : [px(state.at), py(state.at)];
      if (event.key === "Escape") clearAll();
      else if (event.key === "Enter" && state.at >= 0 && state.at < n) pick([state.at], event.shiftKey);
      else if (event.key === "+" || event.key === "-") zoomBy(event.key === "+" ? 1.5 : 1 / 1.5, ...amid);
      else if (way) {
        // The next point in that direction: near, and not too far aside.
        const [ox, oy] = amid;
        let best = state.at, least = Infinity;
        for (let i = 0; i < n; i++) {
          const dx = xs[i] - ox, dy = ys[i] - oy, ahead = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1] + dy * way[0]);
          if (!lit(i) || i === state.at || !shows(xs[i], ys[i]) || ahead < 0.5 || aside > 1.5 * ahead + 1) continue;
          if (ahead + 2 * aside < least) { least = ahead + 2 * aside; best = i; }
        }
        state.at = best; tell();
      } else return;
      event.preventDefault();
    },
  });
  addEventListener("scroll", () => { armed = false; if (!tip.hidden) { state.at = -1; tell(); } }, { passive: true });

  let waiting = 0, ready = false;
  const search = el("input", { type: "search", placeholder: "words of a sentence", input: () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.query = search.value.trim();
      if (state.picked && state.picked.size === 1) state.picked = null;
      refresh();
    }, 120);
  } });
  const colourBy = choice("Colour by", colours.map((c, i) => [i, c.name]), (i) => { state.colour = colours[i]; state.only.clear(); refresh(); });
  colourBy.querySelector("select").value = String(colours.indexOf(state.colour));
  const mapNames = new Map([["pca", "PCA"], ["tsne", "t-SNE"], ["umap", "UMAP"]]);
  const mapBy = choice("Map", D.maps.map((m, i) => [i, mapNames.get(m.name) || m.name]), (i) => { state.map = D.maps[i]; state.zoom = [1, 0, 0]; refresh(true); });
  mapBy.querySelector("select").value = String(D.maps.length - 1);
  const check = (text, name) => {
    const box = el("input", { type: "checkbox", change: () => { state[name] = box.checked; refresh(); } });
    box.checked = state[name];
    return el("label", { class: "check" }, box, el("span", {}, text));
  };
  const drags = el("button", { type: "button", "aria-pressed": "false", title: "Dragging moves the map instead of drawing around points", click: () => {
    state.move = !state.move;
    drags.setAttribute("aria-pressed", String(state.move));
    over.classList.toggle("moves", state.move);
  } }, "Move");
  const tool = (text, title, click) => el("button", { type: "button", title, "aria-label": title, click }, text);
  frame.append(el("div", { class: "tools" }, tool("+", "Zoom in", () => zoomBy(1.5, width / 2, height / 2)), tool("−", "Zoom out", () => zoomBy(1 / 1.5, width / 2, height / 2)),
    tool("Fit", "Show the whole map", () => { state.zoom = [1, 0, 0]; refresh(true); }), drags));
  redraws.push(() => { draw(); explain(); pointer(); });
  new ResizeObserver(() => { if (!matchMedia("print").matches) fit(); }).observe(frame);

  const show = (head, code, look = true) => {
    clearAll();
    state.colour = colours[D.heads.indexOf(head)];
    colourBy.querySelector("select").value = String(colours.indexOf(state.colour));
    state.only.add(code);
    refresh();
    if (look) frame.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  };
  return {
    node: el("div", { class: "map" },
      el("div", { class: "controls" }, colourBy, mapBy, el("label", { class: "field grow" }, el("span", {}, "Search"), search),
        check(`${number(D.samples.text.length)} prior samples ◇`, "samples"), check("Names", "names")),
      legend, el("div", { class: "split" }, el("div", {}, frame, el("div", { class: "under" }, note,
        tool("Save PNG", "Save the map as PNG", () => save("png")), tool("SVG", "Save the map as SVG", () => save("svg")))), list)),
    show,
    // What the address asks for, if it asks for something.
    follow: () => {
      const [name, value] = location.hash.slice(1).split("=");
      const head = D.heads.find((each) => encodeURIComponent(each.name) === name), k = Number(value);
      ready = true;
      if (!Number.isInteger(k) || value === "") return;
      if (head && k >= 0 && k < head.classes.length) show(head, k);
      else if (name === "sentence" && k >= 0 && k < n) { clearAll(); pick([k], false); frame.scrollIntoView({ block: "center" }); }
    },
    print: () => { const made = vector(); made.classList.add("printed"); frame.append(made); },
    printed: () => frame.querySelector(".printed")?.remove(),
    fit,
  };
};
