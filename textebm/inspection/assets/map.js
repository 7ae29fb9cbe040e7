// The latent map: two canvases, one for the points and one above it for what follows the pointer.
const latentMap = () => {
  const n = D.points.text.length, P = D.points;
  const state = { map: D.maps[D.maps.length - 1], colour: null, only: new Set(), query: "", picked: null, samples: false, view: null, at: -1 };
  const base = el("canvas", { "aria-hidden": "true" });
  const over = el("canvas", { tabindex: 0, role: "application", "aria-label":
    "Latent map. Arrow keys go from point to point, Enter selects the point, Escape clears." });
  const tip = document.getElementById("tip");
  const legend = el("div", { class: "legend" }), list = el("div", { class: "list" }), note = el("p", { class: "muted small" });
  const frame = el("div", { class: "plot" }, base, over);

  // What can be coloured: classes (values are numbers of names) or a scale.
  const colours = [];
  for (const head of D.heads) colours.push({ name: head.found ? `Code: ${head.name}` : `Predicted ${head.name}`, classes: head.classes, values: P.code[head.name], head });
  for (const label of D.labels) colours.push({ name: `Label: ${label.name}`, classes: label.classes, values: P.label[label.name] });
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
    const m = state.map, v = state.view;
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    const see = (a, i) => { x0 = Math.min(x0, a[2 * i]); x1 = Math.max(x1, a[2 * i]); y0 = Math.min(y0, a[2 * i + 1]); y1 = Math.max(y1, a[2 * i + 1]); };
    if (v) for (const i of v) see(m.points, i);
    else { for (let i = 0; i < n; i++) see(m.points, i); for (let i = 0; i < m.samples.length / 2; i++) see(m.samples, i); }
    const k = Math.min((width - 32) / (x1 - x0 || 1), (height - 32) / (y1 - y0 || 1)); // one scale for both axes
    const cx = (x0 + x1) / 2, cy = (y0 + y1) / 2;
    const X = (x) => width / 2 + (x - cx) * k, Y = (y) => height / 2 - (y - cy) * k;
    xs = Float32Array.from({ length: n }, (_, i) => X(m.points[2 * i])); ys = Float32Array.from({ length: n }, (_, i) => Y(m.points[2 * i + 1]));
    const count = m.samples.length / 2;
    sx = Float32Array.from({ length: count }, (_, i) => X(m.samples[2 * i])); sy = Float32Array.from({ length: count }, (_, i) => Y(m.samples[2 * i + 1]));
    cells = new Map();
    const put = (x, y, i) => { const key = Math.floor(x / CELL) * 4096 + Math.floor(y / CELL); if (!cells.has(key)) cells.set(key, []); cells.get(key).push(i); };
    for (let i = 0; i < n; i++) put(xs[i], ys[i], i);
    for (let i = 0; i < count; i++) put(sx[i], sy[i], n + i);
  };
  const px = (i) => (i < n ? xs[i] : sx[i - n]), py = (i) => (i < n ? ys[i] : sy[i - n]);
  const nearest = (x, y) => {
    let best = -1, least = 15 * 15;
    const cx = Math.floor(x / CELL), cy = Math.floor(y / CELL);
    for (let a = cx - 1; a <= cx + 1; a++) for (let b = cy - 1; b <= cy + 1; b++) {
      for (const i of cells.get(a * 4096 + b) || []) {
        if (i < n ? !active[i] : !state.samples) continue;
        const far = (px(i) - x) ** 2 + (py(i) - y) ** 2;
        if (far < least) { least = far; best = i; }
      }
    }
    return best;
  };
  const draw = () => {
    if (!width) return;
    const ctx = base.getContext("2d"), ratio = devicePixelRatio || 1, c = state.colour, groups = new Map();
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    const s = c.classes ? null : scale(c);
    for (let i = 0; i < n; i++) {
      const v = c.values[i], key = (active[i] ? 100000 : 0) + (v === null ? -1 : s ? Math.round(s.share(v) * 63) : v);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(i);
    }
    // Grey ones lowest; then of classes the common ones, so that no rare one is covered; of a scale the low values.
    const rank = (key) => (key >= 99000 ? (s ? key : 1e9 - groups.get(key).length) : -1);
    for (const key of [...groups.keys()].sort((a, b) => rank(a) - rank(b) || a - b)) {
      const lit = key >= 99000, value = lit ? key - 100000 : key;
      const look = s ? { colour: value < 0 ? css("--faint") : ramp(value / 63), shape: 0 } : mark(value);
      ctx.globalAlpha = lit ? 0.82 : 0.3;
      ctx.fillStyle = lit ? look.colour : css("--faint");
      ctx.beginPath();
      for (const i of groups.get(key)) trace(ctx, look.shape, xs[i], ys[i], lit ? RADIUS : RADIUS * 0.8);
      ctx.fill();
    }
    if (state.samples) {
      ctx.globalAlpha = 0.95; ctx.lineWidth = 1.3; ctx.strokeStyle = css("--ink");
      ctx.beginPath();
      for (let i = 0; i < sx.length; i++) trace(ctx, 3, sx[i], sy[i], 3.4);
      ctx.stroke();
    }
    ctx.globalAlpha = 1;
  };
  const pointer = (lasso = null) => {
    const ctx = over.getContext("2d"), ratio = devicePixelRatio || 1;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    ctx.strokeStyle = css("--ink");
    if (lasso) {
      ctx.setLineDash([5, 4]); ctx.lineWidth = 1.5; ctx.fillStyle = css("--wash"); ctx.beginPath();
      lasso.forEach(([x, y], i) => ctx[i ? "lineTo" : "moveTo"](x, y));
      ctx.closePath(); ctx.fill(); ctx.stroke(); ctx.setLineDash([]);
    } else if (state.at >= 0) {
      ctx.lineWidth = 2; ctx.beginPath(); ctx.arc(px(state.at), py(state.at), RADIUS + 4, 0, 7); ctx.stroke();
    }
  };
  const facts = (i) => [
    D.heads.map((head) => { const code = P.code[head.name][i]; return [head.name, `${head.classes[code]} (${number(P.confidence[head.name][i], 2)}) ${gist(head, code)}`]; }),
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
  const enumerate = () => {
    const rows = [];
    let count = 0;
    const asked = state.query || state.picked || state.only.size;
    for (let i = 0; asked && i < n; i++) if (active[i]) { count++; if (rows.length < 100) rows.push(i); }
    const c = state.colour;
    const clear = el("button", { type: "button", class: "quiet", click: () => clearAll() }, "Clear");
    list.replaceChildren(
      el("div", { class: "listhead" }, el("b", { "aria-live": "polite" }, asked ? plural(count, "sentence") : "Nothing selected"), asked ? clear : null,
        state.picked && state.picked.size > 1 ? el("button", { type: "button", class: "quiet", click: () => { state.view = state.view ? null : [...state.picked]; refresh(true); } }, state.view ? "Show all" : "Zoom in") : null),
      asked ? el("ol", {}, rows.map((i) => el("li", { mouseenter: () => { state.at = i; pointer(); }, mouseleave: () => { state.at = -1; pointer(); } },
        c.classes ? swatch0(c.values[i]) : null, found(P.text[i], state.query),
        el("span", { class: "muted small", dir: "auto" }, c.classes ? (c.classes[c.values[i]] ?? "none") : number(c.values[i], 3)))))
        : el("p", { class: "muted" }, "Click a point, draw around some, pick a name in the legend, or search."),
      count > rows.length ? el("p", { class: "muted small" }, `The first ${rows.length} are listed.`) : "");
  };
  // Marks in the list come and go: not among those that follow the theme.
  const swatch0 = (value) => { const made = swatch(value); redraws.pop(); return made; };
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
      type: "button", class: "chip", "aria-pressed": String(state.only.has(i)), title: (c.head && gist(c.head, i)) || "Show only these",
      click: () => { state.only.has(i) ? state.only.delete(i) : state.only.add(i); refresh(); },
    }, swatch0(i), el("span", { dir: "auto" }, i < 0 ? "no label" : c.classes[i]), el("span", { class: "muted" }, number(counts.get(i) || 0)))));
  };
  const refresh = (moved = false) => {
    if (moved) place();
    choose(); draw(); explain(); enumerate(); pointer();
    note.textContent = state.map.note;
  };
  const clearAll = () => {
    const moved = state.view !== null;
    Object.assign(state, { picked: null, query: "", view: null, at: -1 });
    state.only.clear(); search.value = "";
    tip.hidden = true;
    refresh(moved);
  };
  const fit = () => {
    const box = frame.getBoundingClientRect(), ratio = devicePixelRatio || 1;
    if (!box.width || (box.width === width && box.height === height)) return;
    [width, height] = [box.width, box.height];
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
  let lasso = null;
  const where = (event) => { const box = over.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  furnish(over, {
    pointerdown: (event) => { if (event.button === 0) { lasso = [where(event)]; over.setPointerCapture(event.pointerId); } },
    pointermove: (event) => {
      const [x, y] = where(event);
      if (lasso) {
        const [lx, ly] = lasso[lasso.length - 1];
        if ((x - lx) ** 2 + (y - ly) ** 2 > 9) lasso.push([x, y]);
        if (lasso.length > 3) { tip.hidden = true; pointer(lasso); }
        return;
      }
      const at = nearest(x, y);
      if (at !== state.at) { state.at = at; tell(); }
    },
    pointerup: (event) => {
      if (!lasso) return;
      const drawn = lasso;
      lasso = null;
      if (drawn.length > 3) {
        const rows = [];
        for (let i = 0; i < n; i++) if (inside(xs[i], ys[i], drawn) && (event.shiftKey || active[i] || state.picked)) rows.push(i);
        pick(rows, event.shiftKey);
      } else {
        const at = nearest(...drawn[0]);
        if (at >= 0 && at < n) pick([at], event.shiftKey);
        else if (at < 0 && state.picked) pick([], false);
        state.at = at; tell();
      }
    },
    pointercancel: () => { lasso = null; pointer(); },
    pointerleave: () => { if (!lasso) { state.at = -1; tell(); } },
    blur: () => { state.at = -1; tell(); },
    keydown: (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Escape") clearAll();
      else if (event.key === "Enter" && state.at >= 0 && state.at < n) pick([state.at], event.shiftKey);
      else if (way) {
        // The next point in that direction: near, and not too far aside.
        const [ox, oy] = state.at < 0 ? [width / 2, height / 2] : [px(state.at), py(state.at)];
        let best = state.at, least = Infinity;
        for (let i = 0; i < n; i++) {
          const dx = xs[i] - ox, dy = ys[i] - oy, ahead = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1] + dy * way[0]);
          if (!active[i] || i === state.at || ahead < 0.5 || aside > 1.5 * ahead + 1) continue;
          if (ahead + 2 * aside < least) { least = ahead + 2 * aside; best = i; }
        }
        state.at = best; tell();
      } else return;
      event.preventDefault();
    },
  });
  addEventListener("scroll", () => { if (!tip.hidden) { state.at = -1; tell(); } }, { passive: true });

  let waiting = 0;
  const search = el("input", { type: "search", placeholder: "words of a sentence", input: () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.query = search.value.trim(); refresh(); }, 120);
  } });
  const colourBy = choice("Colour by", colours.map((c, i) => [i, c.name]), (i) => { state.colour = colours[i]; state.only.clear(); refresh(); });
  colourBy.querySelector("select").value = String(colours.indexOf(state.colour));
  const mapNames = new Map([["pca", "PCA"], ["tsne", "t-SNE"], ["umap", "UMAP"]]);
  const mapBy = choice("Map", D.maps.map((m, i) => [i, mapNames.get(m.name) || m.name]), (i) => { state.map = D.maps[i]; refresh(true); });
  mapBy.querySelector("select").value = String(D.maps.length - 1);
  const overlay = el("input", { type: "checkbox", change: () => { state.samples = overlay.checked; refresh(); } });
  redraws.push(() => { draw(); explain(); enumerate(); pointer(); });
  new ResizeObserver(fit).observe(frame);

  return {
    node: el("div", { class: "map" },
      el("div", { class: "controls" }, colourBy, mapBy, el("label", { class: "field grow" }, el("span", {}, "Search"), search),
        el("label", { class: "check" }, overlay, el("span", {}, `${number(D.samples.text.length)} prior samples ◇`))),
      legend, el("div", { class: "split" }, el("div", {}, frame, note), list)),
    // Called by a code card: only this code, and look.
    show: (head, code) => {
      clearAll();
      state.colour = colours[D.heads.findIndex((each) => each.name === head)];
      colourBy.querySelector("select").value = String(colours.indexOf(state.colour));
      state.only.add(code);
      refresh();
      frame.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    },
    fit,
  };
};
