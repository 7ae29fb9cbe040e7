// Behind the story: codes against labels, training, the sampler, and every number.
const heatMap = () => {
  const holder = el("div");
  const pairs = D.heads.flatMap((h) => D.labels.map((l) => [h, l]));
  if (!pairs.length) return null;
  const draw = (i) => {
    const [head, label] = pairs[i], counts = D.tables[head.name][label.name];
    const order = counts.map((row, code) => [code, row, row.reduce((a, b) => a + b, 0)]).sort((a, b) => b[2] - a[2] || a[0] - b[0]);
    holder.replaceChildren(el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Code by label" }, el("table", { class: "heat" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("bdi", {}, head.name), " \\ ", el("bdi", {}, label.name)), label.classes.map((c) => el("th", { scope: "col", dir: "auto" }, c)), el("th", { scope: "col" }, "all"))),
      el("tbody", {}, order.map(([code, row, all]) => el("tr", {}, el("th", { scope: "row", dir: "auto", title: head.classes[code] }, head.classes[code]), row.map((count) => {
        const cell = el("td", { title: all ? `${percent(count / all)} of ${head.classes[code]}` : null }, number(count));
        cell.style.setProperty("--share", `${Math.round(all ? (72 * count) / all : 0)}%`);
        return cell;
      }), el("td", { class: "muted" }, number(all))))))));
  };
  const start = Math.max(0, pairs.findIndex(([h, l]) => h.found && h.classes.length === l.classes.length), pairs.findIndex(([h]) => h.found));
  const select = choice("Show", pairs.map(([h, l], i) => [i, `${h.name} × ${l.name}`]), draw);
  select.querySelector("select").value = String(start);
  draw(start);
  return [el("p", { class: "muted" }, "Counts of sentences; the shade is the share of the row."), el("div", { class: "controls" }, select), holder];
};

const training = () => {
  const warnings = D.warnings.map((w) => {
    const [name, ...rest] = w.text.split(":");
    const when = w.times === 1 ? `at step ${number(w.first)}` : `${w.times} times, steps ${number(w.first)} to ${number(w.last)}`;
    return el("li", { class: w.at_end ? "warn" : "past" }, el("b", {}, name), `:${rest.join(":")} `,
      el("span", { class: "muted" }, `(${when}${w.at_end ? ", still at the end" : ", gone by the end"})`));
  });
  const ends = D.curves.stages.slice(0, -1).map((s) => s.end);
  return [
    el("div", { class: "note" }, warnings.length ? [el("h3", {}, "Warnings that fired in training"), el("ul", {}, warnings)]
      : el("p", {}, D.curves.panels.length ? "No warning fired in training." : "No training metrics lie in this run.")),
    D.curves.panels.length ? [el("p", { class: "muted" }, "On a fixed sample of the validation split, by step. ",
      D.curves.stages.map((s, i) => `${i ? "; " : "Stages: "}${s.name} to step ${number(s.end)}`), ends.length ? " (dashed lines)." : "."),
    el("div", { class: "charts" }, D.curves.panels.map((p) => lineChart({ ...p, verticals: ends })))] : null,
  ];
};

const arrow = (better) => (better === true ? "↑" : better === false ? "↓" : "");
const metricTable = (rows) => el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Measured table" }, el("table", { class: "measured" },
  el("thead", {}, el("tr", {}, ["Metric", "", "Value", "Unit", "n"].map((h, i) => el("th", { scope: "col", class: i === 2 || i === 4 ? "num" : "" }, h)))),
  el("tbody", {}, rows.map((m) => el("tr", {},
    el("th", { scope: "row", dir: "auto" }, m.name, el("span", { class: "muted small block" }, m.description)),
    el("td", { class: "arrow" }, arrow(m.higher_is_better)), el("td", { class: "num strong" }, number(m.value)),
    el("td", { class: "muted" }, m.unit), el("td", { class: "num muted" }, number(m.n)))))));
const measured = () => {
  const E = D.evaluation, groups = new Map();
  for (const row of E ? E.rows : []) { if (!groups.has(row.group)) groups.set(row.group, []); groups.get(row.group).push(row); }
  return [
    E ? [el("p", { class: "muted" }, `${plural(E.rows.length, "metric")} on ${E.split}, seed ${E.seed}. ↑ higher is better, ↓ lower is better; without an arrow, a reference.`),
      [...groups].map(([name, rows]) => el("details", {}, el("summary", {}, el("bdi", {}, name), el("span", { class: "muted" }, ` ${number(rows.length)}`)), metricTable(rows))),
      E.notes.length ? el("ul", { class: "muted small" }, E.notes.map((text) => el("li", { dir: "auto" }, text))) : null]
      : el("p", { class: "muted" }, "Not measured yet: textebm evaluate RUN, then make the report again."),
    el("details", {}, el("summary", {}, "The whole recipe"),
      el("dl", { class: "options" }, D.run.options.map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", { dir: "auto" }, v))))),
  ].flat();
};

const sampler = () => {
  const parts = [], C = D.chains, E = D.energyLevels;
  if (C.length) {
    const least = C.reduce((a, b) => (Math.min(a.ess_position, a.ess_energy) < Math.min(b.ess_position, b.ess_energy) ? a : b));
    parts.push(el("h3", {}, "Chains"),
      el("p", { class: "muted" }, `A draw takes ${plural(C[0].steps, "step")} at ${C.length === 1 ? "one level" : `each of ${C.length} levels`}. Effective sample size: independent draws of a level's conditional that `,
        "100 steps of its chain are worth, from their autocorrelation; of the coordinates (position) and of F (energy). ",
        C.length > 1 ? `Least at level ${least.level}: ${number(Math.min(least.ess_position, least.ess_energy), 3)}.` : ""));
    if (C.length > 1) {
      const by = (title, unit, key, range) => lineChart({ title, unit, range, across: "level, 0 the cleanest", points: C.filter((c) => c[key] !== null).map((c) => [c.level, c[key]]) });
      parts.push(el("div", { class: "charts" }, C.some((c) => c.acceptance !== null) ? by("Acceptance", "share of proposals", "acceptance", [0, 1]) : null,
        by("Effective draws, position", "in 100 steps", "ess_position", [0, 100]), by("Effective draws, energy", "in 100 steps", "ess_energy", [0, 100])));
    }
    const table = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Chains by level" }, el("table", {},
      el("thead", {}, el("tr", {}, ["level", "ᾱ", "acceptance", "effective in 100: position", "energy"].map((h) => el("th", { scope: "col", class: "num" }, h)))),
      el("tbody", {}, C.map((c) => el("tr", {}, el("th", { scope: "row", class: "num" }, c.level), [c.signal, c.acceptance, c.ess_position, c.ess_energy].map((v) => el("td", { class: "num" }, number(v, 3))))))));
    parts.push(C.length > 1 ? el("details", {}, el("summary", {}, "The numbers"), table) : table);
  } else parts.push(el("p", { class: "muted" }, "This prior has a closed form and is drawn from directly: no chains, every draw is independent."));
  if (E.length) {
    parts.push(el("h3", {}, "Energies"), el("p", { class: "muted" }, "−F in nats, by level. If the prior fits, its samples have the energies that draws of the sentences' posteriors have: ",
        "the solid and the dashed line lie on each other. Beside each the area they share, and what equal densities would share at this many draws."),
      el("p", { class: "small" }, ["posterior means", "posterior draws", "prior samples"].map((name, i) => el("span", { class: `key key${i}` }, name))),
      el("div", { class: "charts" }, E.map((e) => histogram({ title: E.length > 1 ? `Level ${e.level}, ᾱ ${e.signal.toFixed(2)}` : "Level 0",
        across: "−F, nats; share of draws in each bin",
        note: `share ${percent(e.overlap)}; equal ones ${percent(e.chance_overlap)}`, low: e.low, high: e.high, series: [e.means, e.draws, e.samples] }))));
  }
  return parts;
};

