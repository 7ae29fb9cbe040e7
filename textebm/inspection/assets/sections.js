// The sections of the page, from top to bottom.
const arrow = (better) => (better === true ? "↑" : better === false ? "↓" : "");

// What a reader asks first, as far as it was measured.
const HEADLINE = ["ppl", "reconstruction_bleu", ...D.heads.map((head) => `control_accuracy_${head.name}`), "grammatical", "mutual_information_zy",
  ...D.labels.map((label) => `v_measure_${label.name}`), "code_agreement", "self_bleu", "wkl"];
const headline = (rows) => {
  const picked = HEADLINE.flatMap((name) => rows.filter((m) => m.name === name && m.value !== null)).slice(0, 6);
  const shown = (m) => (m.unit.startsWith("share") ? `${(100 * m.value).toFixed(1)}%` : number(m.value, 3));
  return picked.length < 2 ? null : el("dl", { class: "headline" }, picked.map((m) => el("div", { title: m.description },
    el("dt", { dir: "auto" }, m.name.replaceAll("_", " ")), el("dd", {}, shown(m)),
    el("dd", { class: "muted small" }, `${m.unit} ${arrow(m.higher_is_better)}`))));
};

// What is wrong with the run, or that nothing was found, and the figures beside their references.
const verdict = () => {
  if (!D.verdict) return null;
  const { findings, references } = D.verdict;
  return el("div", { class: "note" },
    el("h3", {}, findings.length ? `Verdict: ${findings.length} finding${findings.length > 1 ? "s" : ""}` : "Verdict: nothing found wrong"),
    findings.length ? el("ul", {}, findings.map((f) => el("li", { class: "warn", dir: "auto" }, `${f.evidence}: `, el("b", {}, f.option), `, ${f.effect}`))) : null,
    el("ul", { class: "muted small" }, references.map((r) => el("li", { dir: "auto" }, `${r.name} ${r.value} (${r.beside})`))));
};

const overview = () => {
  const R = D.run, E = D.evaluation;
  const facts = el("dl", { class: "facts" }, R.facts.map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", { dir: "auto" }, v))));
  const warnings = D.warnings.map((w) => {
    const [name, ...rest] = w.text.split(":");
    const when = w.times === 1 ? `at step ${number(w.first)}` : `${w.times} times, steps ${number(w.first)} to ${number(w.last)}`;
    return el("li", { class: w.at_end ? "warn" : "past" }, el("b", {}, name), `:${rest.join(":")} `,
      el("span", { class: "muted" }, `(${when}${w.at_end ? ", still at the end" : ", gone by the end"})`));
  });
  const parts = [
    el("h1", { dir: "auto" }, R.name),
    R.description ? el("p", { class: "lead", dir: "auto" }, R.description) : null,
    verdict(),
    E ? headline(E.rows) : null,
    facts,
    el("div", { class: "note" }, warnings.length ? [el("h3", {}, "Warnings that fired in training"), el("ul", {}, warnings)]
      : el("p", {}, D.curves.panels.length ? "No warning fired in training." : "No training metrics lie in this run.")),
  ];
  if (D.curves.panels.length) {
    const ends = D.curves.stages.slice(0, -1).map((s) => s.end);
    parts.push(el("h2", {}, "Training"),
      el("p", { class: "muted" }, "On a fixed sample of the validation split, by step. ",
        D.curves.stages.map((s, i) => `${i ? "; " : "Stages: "}${s.name} to step ${number(s.end)}`), ends.length ? " (dashed lines)." : "."),
      el("div", { class: "charts" }, D.curves.panels.map((p) => lineChart({ ...p, verticals: ends }))));
  }
  parts.push(el("h2", {}, "Measured"));
  if (E) {
    parts.push(el("p", { class: "muted" }, `On ${E.split}, seed ${E.seed}. ↑ higher is better, ↓ lower is better.`),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Measured table" }, el("table", { class: "measured" },
        el("thead", {}, el("tr", {}, ["Metric", "", "Value", "Unit", "n"].map((h, i) => el("th", { scope: "col", class: i === 2 || i === 4 ? "num" : "" }, h)))),
        el("tbody", {}, E.rows.map((m) => el("tr", {},
          el("th", { scope: "row", dir: "auto" }, m.name, el("span", { class: "muted small block" }, m.description)),
          el("td", { class: "arrow" }, arrow(m.higher_is_better)), el("td", { class: "num strong" }, number(m.value)),
          el("td", { class: "muted" }, m.unit), el("td", { class: "num muted" }, number(m.n))))))),
      E.notes.length ? el("ul", { class: "muted small" }, E.notes.map((text) => el("li", { dir: "auto" }, text))) : null);
  } else parts.push(el("p", { class: "muted" }, "Not measured yet: textebm evaluate RUN, then make the report again."));
  parts.push(el("details", {}, el("summary", {}, "The whole recipe"),
    el("dl", { class: "options" }, R.options.map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", { dir: "auto" }, v))))));
  return parts;
};

// What a sentence's hover says: p(code|z), and what each word adds to its logarithm.
const because = (t) => [`p = ${number(t.probability, 4)}`, ...(t.words || []).map((word, i) => `${word} ${t.parts[i] < 0 ? "" : "+"}${t.parts[i].toFixed(2)}`)].join("\n");

const cardOf = (head, card, goTo, map) => {
  const badge = card.size === 0 ? el("span", { class: "badge" }, "unused")
    : card.duplicates.length ? el("span", { class: "badge" }, "nearly the same as ", card.duplicates.join(", ")) : null;
  const groups = new Map();
  for (const share of card.labels) { if (!groups.has(share.label)) groups.set(share.label, []); groups.get(share.label).push(share); }
  return el("article", { class: "card", tabindex: -1 },
    el("header", {}, swatch(card.code), el("h3", { dir: "auto" }, card.name), badge,
      card.size ? el("button", { type: "button", class: "quiet", click: () => map.show(head.name, card.code), "aria-label": `Show ${card.name} on the map` }, "Map") : null),
    el("p", { class: "muted small measure" }, bar(card.share, "share of the sentences"), `${plural(card.size, "sentence")}, ${percent(card.share)}`,
      card.confidence === null ? null : ` · confidence ${number(card.confidence, 2)}`),
    card.words.length ? el("p", { class: "words", dir: "auto" }, card.words.map((w, i) =>
      el("span", { class: `word w${Math.floor(i / 3)}`, title: `${plural(w.count, "time")}; c-TF-IDF ${number(w.score, 3)}; ${number(w.z, 3)} standard errors above the other codes` }, w.text, " "))) : null,
    groups.size ? el("dl", { class: "shares" }, [...groups].map(([label, shares]) => el("div", {}, el("dt", { dir: "auto" }, label), el("dd", {}, shares.map((s) =>
      el("span", { class: s.lift >= 1.5 && s.count >= 5 ? "share strong" : "share", title: `${plural(s.count, "sentence")}` }, el("bdi", {}, s.name), ` ${percent(s.share)}`,
        el("span", { class: "muted" }, ` ×${number(s.lift, 2)}`))))))) : null,
    card.typical.length ? [el("h4", {}, "Most typical"), el("ul", { class: "sentences" }, card.typical.map((t) => el("li", { title: because(t) }, say(t.text))))] : null,
    card.generated.length ? [el("h4", {}, "Generated for it"), el("ul", { class: "sentences made" }, card.generated.map((t) => el("li", {}, say(t))))] : null,
    card.nearest.length ? el("p", { class: "muted small" }, "Nearest: ", card.nearest.map((near) =>
      el("button", { type: "button", class: "link", click: () => goTo(near.name) }, el("bdi", {}, near.name), ` ${number(near.cosine, 2)}`))) : null);
};

const codeCards = (map) => {
  const area = el("div", { class: "cards" }), status = el("p", { class: "muted" });
  let head = D.heads[0], order = "size";
  const orders = {
    size: (c) => -c.size, confidence: (c) => -(c.confidence ?? -1), unsure: (c) => c.confidence ?? 2,
    name: (c) => c.code, lift: (c) => -Math.max(0, ...c.labels.map((s) => s.share * Math.log(s.lift))), // a lift counts as much as its share
  };
  const nodes = new Map();
  const draw = () => {
    const cards = [...D.cards[head.name]].sort((a, b) => orders[order](a) - orders[order](b) || a.code - b.code);
    nodes.clear();
    redraws.length = kept;
    area.replaceChildren(...cards.map((card) => {
      const node = cardOf(head, card, (name) => { const to = nodes.get(name); to.scrollIntoView({ block: "center" }); to.focus(); }, map);
      nodes.set(card.name, node);
      return node;
    }));
    const unused = cards.filter((c) => c.size === 0), twins = cards.filter((c) => c.duplicates.length);
    status.replaceChildren(`${head.found ? "Found by the model" : "Taught by labels"}: ${plural(cards.length, head.found ? "code" : "class", head.found ? "codes" : "classes")}. `,
      unused.length ? `Unused: ${unused.map((c) => c.name).join(", ")}. ` : "None unused. ",
      twins.length ? `Nearly the same: ${twins.map((c) => `${c.name} and ${c.duplicates.join(", ")}`).join("; ")}.` : "No duplicates.");
  };
  const kept = redraws.length; // marks of cards are drawn anew with the cards
  const pick = tabs(D.heads.map((h) => h.name), (i) => { head = D.heads[i]; draw(); });
  const start = Math.max(0, D.heads.findIndex((h) => h.found));
  if (start) pick.pick(start); else draw();
  return [
    el("p", { class: "muted" }, "What each code stands for: words by class-based TF-IDF, the sentences it is surest of, sentences generated for it, and labels ",
      "with their lift (×2: twice as often as in all sentences)."),
    el("div", { class: "controls" }, pick.node, choice("Sort by", [["size", "size"], ["name", "number"], ["confidence", "surest first"], ["unsure", "least sure first"], ["lift", "label lift"]], (v) => { order = v; draw(); })),
    status, area,
  ];
};

const heatMap = () => {
  const holder = el("div");
  const pairs = D.heads.flatMap((h) => D.labels.map((l) => [h, l]));
  if (!pairs.length) return null;
  const draw = (i) => {
    const [head, label] = pairs[i], counts = D.tables[head.name][label.name];
    const order = counts.map((row, code) => [code, row, row.reduce((a, b) => a + b, 0)]).sort((a, b) => b[2] - a[2] || a[0] - b[0]);
    holder.replaceChildren(el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Code by label" }, el("table", { class: "heat" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("bdi", {}, head.name), " \\ ", el("bdi", {}, label.name)), label.classes.map((c) => el("th", { scope: "col", dir: "auto" }, c)), el("th", { scope: "col" }, "all"))),
      el("tbody", {}, order.map(([code, row, all]) => el("tr", {}, el("th", { scope: "row", dir: "auto", title: gist(head, code) || null }, head.classes[code]), row.map((count) => {
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

const control = () => {
  const parts = [el("p", { class: "muted" }, "Sentences generated for each class. Agreement: the share that the model's own classifier gives the class that was asked for; ",
    "independent judges are in the measured table.")];
  const holder = el("div");
  const FEW = 24;
  const draw = (i, all = false) => {
    const C = D.control[i], head = D.heads[i], every = D.cards[head.name], cards = all ? every : every.slice(0, FEW);
    holder.replaceChildren(
      C.sweep.length ? el("div", { class: "charts" }, lineChart({ title: "Agreement by strength", unit: `share of ${C.sweep[0].n}`, range: [0, 1],
        points: C.sweep.map((s) => [s.strength, s.agreement]) })) : "",
      el("div", { class: "classes" }, cards.map((card, k) => el("section", { class: "class" },
        el("h3", {}, el("bdi", {}, card.name), el("span", { class: "muted small" }, ` ${percent(C.agreement[k])} of ${card.generated.length} agree`)),
        el("ul", { class: "sentences made" }, card.generated.map((t) => el("li", {}, say(t))))))),
      cards.length < every.length ? el("p", {}, el("button", { type: "button", class: "quiet", click: () => draw(i, true) }, `Show all ${every.length} classes`)) : "");
  };
  parts.push(tabs(D.heads.map((h) => h.name), (i) => draw(i)).node, holder);
  draw(0);
  const G = D.composition;
  if (G) {
    const columns = [...new Set(G.cells.map((c) => c.second))], rows = [...new Set(G.cells.map((c) => c.first))];
    const at = (a, b) => G.cells.find((c) => c.first === a && c.second === b);
    const cell = (c) => el("td", {}, el("ul", { class: "sentences made" }, c.texts.map((t) => el("li", {}, say(t)))), el("span", { class: "muted small" }, `both: ${percent(c.agreement)}`));
    parts.push(el("h3", {}, "Two at once: ", el("bdi", {}, G.heads[0]), " × ", el("bdi", {}, G.heads[1])),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Composition" }, el("table", { class: "grid" },
        el("thead", {}, el("tr", {}, el("td"), columns.map((b) => el("th", { scope: "col", dir: "auto" }, b)))),
        el("tbody", {}, rows.map((a) => el("tr", {}, el("th", { scope: "row", dir: "auto" }, a), columns.map((b) => cell(at(a, b)))))))));
  }
  return parts;
};

// Words that the last sentence has are strong, the others pale: one sees when each arrives.
const arriving = (text, final) => {
  const there = new Set(final.split(/\s+/));
  return text === "" ? say(text) : el("span", { class: "text", dir: "auto" }, text.split(/\s+/).map((w, i) => [i ? " " : "", el("span", { class: there.has(w) ? "stays" : "goes" }, w)]));
};
// What changes at each layer of a hierarchical latent.
const layers = (L) => {
  const below = (n) => (n === 1 ? "layer 1" : `layers 1–${n}`);
  return [
    el("h3", {}, "Layers"),
    el("p", { class: "muted" }, "The latent has layers, 1 the lowest. Here the named ones are drawn anew and those above stay. What stays the same is carried above; ",
      "what changes, by the layers drawn. The last row draws everything, and shows what chance keeps."),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "What each layer carries" }, el("table", {},
      el("thead", {}, el("tr", {}, ["drawn anew", "dimensions", "words kept"].map((h, i) => el("th", { scope: "col", class: i ? "num" : "" }, h)),
        L.heads.map((h) => el("th", { scope: "col", class: "num" }, el("bdi", {}, h), " kept")))),
      el("tbody", {}, L.layers.map((each) => el("tr", {}, el("th", { scope: "row" }, below(each.number)), el("td", { class: "num" }, each.size),
        el("td", { class: "num", title: `${percent(each.words_chance)} against another sentence` }, bar(each.words), percent(each.words)),
        L.heads.map((h) => el("td", { class: "num" }, bar(each.kept[h]), percent(each.kept[h])))))))),
    el("p", { class: "muted small" }, `${plural(L.layers[0].n, "sentence")}; words in common with an unrelated sentence: ${percent(L.layers[0].words_chance)}.`),
    el("div", { class: "trails" }, L.sentences.map((text, i) => el("ol", { class: "trail" },
      el("li", { class: "end" }, el("span", { class: "muted small step" }, "given"), say(text)),
      L.layers.map((each) => each.texts[i].map((made, k) => el("li", {},
        el("span", { class: "muted small step" }, k ? "" : below(each.number)), arriving(made, text))))))),
  ];
};

const paths = () => {
  const parts = [];
  if (D.diffusions.length) {
    parts.push(el("h3", {}, "From noise to sentence"),
      el("p", { class: "muted" }, "Draws of the prior, decoded as they stand at each level; ᾱ says how much signal a level has, from 0 to 1. Strong words are those of the sentence it becomes."),
      el("div", { class: "trails" }, D.diffusions.map((d) => el("ol", { class: "trail" }, d.levels.map((level, i) => el("li", {},
        el("span", { class: "muted small step", title: `level ${level}` }, `ᾱ ${d.signal[i].toFixed(2)}`), arriving(d.texts[i], d.texts[d.texts.length - 1])))))));
  }
  if (D.edits.length) {
    parts.push(el("h3", {}, "Edits"), el("p", { class: "muted" }, `A sentence is diffused to a level and denoised under another ${D.edits[0].head}: `,
      "low levels keep the content, high levels obey more. Strong words are the sentence's own; after each the class it is given."),
      el("div", { class: "trails" }, D.edits.map((e) => el("ol", { class: "trail" },
        el("li", { class: "end" }, el("span", { class: "muted small step" }, "given"), say(e.text), el("span", { class: "muted small" }, ` ${e.source} → ${e.target}`)),
        e.levels.map((level, i) => el("li", {}, el("span", { class: "muted small step" }, level === null ? "chain" : `level ${level}`), arriving(e.texts[i], e.text),
          el("span", { class: `small ${e.found[i] === e.target ? "yes" : "muted"}` }, ` ${e.found[i] === e.target ? "✓ " : ""}${e.found[i]}`)))))));
  }
  if (D.layers) parts.push(layers(D.layers));
  if (D.walks.length) {
    parts.push(el("h3", {}, "Walks"), el("p", { class: "muted" }, "Between two sentences of the corpus, along the arc between their latents."),
      el("div", { class: "trails" }, D.walks.map((w) => el("ol", { class: "trail" }, w.map((text, i) => el("li", { class: i === 0 || i === w.length - 1 ? "end" : "" },
        el("span", { class: "muted small step" }, i === 0 ? "from" : i === w.length - 1 ? "to" : percent((i - 1) / (w.length - 3))), say(text)))))));
  }
  return parts;
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
      const chart = (title, key, range) => lineChart({ title, unit: "by level", range, points: C.filter((c) => c[key] !== null).map((c) => [c.level, c[key]]) });
      parts.push(el("div", { class: "charts" }, C.some((c) => c.acceptance !== null) ? chart("Acceptance", "acceptance", [0, 1]) : null,
        chart("Effective in 100, position", "ess_position", [0, 100]), chart("Effective in 100, energy", "ess_energy", [0, 100])));
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
        note: `${percent(e.overlap)} of ${percent(e.chance_overlap)}`, low: e.low, high: e.high, series: [e.means, e.draws, e.samples] }))));
  }
  return parts;
};

const build = () => {
  const main = document.getElementById("main"), nav = document.getElementById("nav");
  document.getElementById("brand").textContent = D.run.name;
  const map = latentMap();
  const sections = [
    ["overview", "Overview", overview()],
    ["map", "Map", [el("p", { class: "muted" }, "Each point is a sentence at its posterior mean. Hover to read it, click or draw around points to list them. Prior samples lie wider than the means by the posterior's own spread; regions with many of them and no sentence, or the reverse, are where the prior is wrong."), map.node]],
    ["codes", "Codes", D.heads.length ? codeCards(map) : null],
    ["labels", "Labels", heatMap()],
    ["control", "Control", D.heads.length ? control() : null],
    ["paths", "Paths", paths()],
    ["sampler", "Sampler", sampler()],
  ];
  for (const [id, name, content] of sections) {
    if (!content || !content.length) continue;
    main.append(el("section", { id, "aria-label": name }, id === "overview" ? null : el("h2", {}, { map: "Latent map", labels: "Codes and labels" }[id] || name), content));
    nav.append(el("a", { href: `#${id}` }, name));
  }
  main.append(el("footer", { class: "muted small" }, `textebm ${D.run.version}. This file is complete: it loads and sends nothing.`));
  map.fit();
};

const themeButton = document.getElementById("theme");
const themed = () => { themeButton.textContent = isDark() ? "Light" : "Dark"; redraws.forEach((draw) => draw()); };
themeButton.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; themed(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
let before = "";
addEventListener("beforeprint", () => { before = root.dataset.theme || ""; root.dataset.theme = "light"; themed(); });
addEventListener("afterprint", () => { if (before) root.dataset.theme = before; else delete root.dataset.theme; themed(); });
build();
themed();
performance.mark("ready");
root.dataset.ready = "yes";
