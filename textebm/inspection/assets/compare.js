// Two or more runs side by side: their verdicts, key figures, samples, what differs in the recipes, and every number.
const compare = () => {
  const { runs, headline, options, groups } = D.compared, main = document.getElementById("main"), nav = document.getElementById("nav");
  document.getElementById("brand").textContent = "Runs compared";
  const heads = (first, more = []) => el("thead", {}, el("tr", {}, el("th", { scope: "col" }, first), runs.map((r) => el("th", { scope: "col", class: "num", dir: "auto" }, r.name)), more));
  // The best value of a row is strong; of a reference none is.
  const best = (row) => (row.better === null ? null : (row.better ? Math.max : Math.min)(...row.values.filter((v) => v !== null)));
  const table = (label, first, rows) => el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, el("table", { class: "compared" }, heads(first), el("tbody", {}, rows)));
  const beside = (content) => el("div", { class: "beside" }, runs.map((r) => el("div", {}, el("h3", { dir: "auto" }, r.name), content(r))));
  const sections = [
    ["overview", "Overview", [el("h1", {}, runs.map((r, i) => [i ? " and " : "", el("bdi", {}, r.name)])),
      D.compared.notes.map((text) => el("p", { class: "note warn", dir: "auto" }, text)),
      beside((r) => {
        const { findings, references } = r.verdict || { findings: null, references: [] };
        return el("div", { class: `note verdict ${findings ? (findings.length ? "bad" : "good") : ""}` },
          el("h2", {}, findings ? (findings.length ? plural(findings.length, "finding") : "Nothing found wrong") : "No verdict lies in this run"),
          findings && findings.length ? el("ul", {}, findings.map((f) => el("li", { dir: "auto" }, `${f.evidence}: `, el("b", {}, f.option)))) : null,
          references.length ? el("ul", { class: "muted small" }, references.map((x) => el("li", { dir: "auto" }, `${x.name} ${x.value} (${x.beside})`))) : null);
      }),
      table("Key figures", "", headline.map((row) => el("tr", {}, el("th", { scope: "row", dir: "auto", title: row.description }, row.title),
        row.cells.map((c) => el("td", { class: "num" }, c === null ? "–" : [el("b", {}, c.value), el("span", { class: "muted small block", dir: "auto" }, c.beside)])))))]],
    ["samples", "Samples", [beside((r) => el("ol", { class: "sentences made" }, r.samples.map((text) => el("li", {}, say(text)))))]],
    ["recipes", "Recipes", [options.length ? table("Options that differ", "option", options.map((o) => el("tr", {}, el("th", { scope: "row", dir: "auto" }, o.name), o.values.map((v) => el("td", { class: "num", dir: "auto" }, v ?? "–")))))
      : el("p", { class: "muted" }, "The recipes say the same.")]],
    ["measured", "Measured", groups.map((g) => el("details", {}, el("summary", {}, el("bdi", {}, g.name), el("span", { class: "muted" }, ` ${number(g.rows.length)}`)),
      table(g.name, "metric", g.rows.map((row) => el("tr", {}, el("th", { scope: "row", dir: "auto" }, `${row.name} ${arrow(row.better)}`, el("span", { class: "muted small block" }, `${row.unit}. ${row.description}`)),
        row.values.map((v) => el("td", { class: `num ${v !== null && v === best(row) && new Set(row.values).size > 1 ? "strong" : ""}` }, number(v))))))))],
  ];
  const titles = { samples: "What they write", recipes: "What differs in their recipes", measured: "All that was measured" };
  for (const [id, name, content] of sections) {
    main.append(el("section", { id, "aria-label": name }, titles[id] ? el("h2", {}, titles[id]) : null, content));
    nav.append(el("a", { href: `#${id}` }, name));
  }
  main.append(el("footer", { class: "muted small" }, `textebm ${D.compared.version}. This file is complete: it loads and sends nothing.`));
  return null;
};
