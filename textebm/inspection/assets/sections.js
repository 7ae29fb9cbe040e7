// The story of the page, from top to bottom: verdict, samples, figures, codes, control, and how a draw becomes a sentence.

// What a reader asks first, each figure beside what it is measured against.
const headline = () => (D.headline.length ? el("dl", { class: "headline" }, D.headline.map((m) => el("div", { title: m.description },
  el("dt", { dir: "auto" }, m.title), el("dd", {}, m.value), el("dd", { class: "muted small", dir: "auto" }, m.beside)))) : null);

// What is wrong with the run, or that nothing was found, and the figures beside their references.
const verdict = () => {
  if (!D.verdict) return null;
  const { findings, references } = D.verdict;
  return el("div", { class: `note verdict ${findings.length ? "bad" : "good"}` },
    el("h2", {}, findings.length ? `Verdict: ${plural(findings.length, "finding")}` : "Verdict: nothing found wrong"),
    findings.length ? el("ul", {}, findings.map((f) => el("li", { class: "warn", dir: "auto" }, `${f.evidence}: `, el("b", {}, f.option), `, ${f.effect}`))) : null,
    references.length ? el("p", { class: "muted small" }, references.map((r, i) => [i ? " · " : "", el("bdi", {}, `${r.name} ${r.value} (${r.beside})`)])) : null);
};

const SAMPLES = 10;
const overview = () => {
  const R = D.run, drawn = D.samples.text.slice(0, SAMPLES);
  return [
    el("h1", { dir: "auto" }, R.name),
    R.description ? el("p", { class: "lead", dir: "auto" }, R.description) : null,
    verdict(),
    drawn.length ? [el("h2", {}, "What it writes"), el("p", { class: "muted" }, `The first ${plural(drawn.length, "draw")} of the prior, greedily decoded; none was chosen.`),
      el("ol", { class: "drawn sentences made" }, drawn.map((text) => el("li", {}, say(text))))] : null,
    headline(),
    el("dl", { class: "facts" }, R.facts.map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", { dir: "auto" }, v)))),
  ];
};

// What a sentence's hover says: p(code|z), and what each word adds to its logarithm.
const because = (t) => [`p = ${number(t.probability, 4)}`, ...(t.words || []).map((word, i) => `${word} ${t.parts[i] < 0 ? "" : "+"}${t.parts[i].toFixed(2)}`)].join("\n");
// The words that carry most of it are marked, where the sentence is those words.
const explained = (t) => {
  const words = t.words || [], most = Math.max(...t.parts || [], 0);
  if (!most || words.join(" ") !== t.text) return say(t.text);
  return el("span", { class: "text", dir: "auto" }, words.map((word, i) => [i ? " " : "", t.parts[i] >= most / 2 ? el("span", { class: "why" }, word) : word]));
};

const cardOf = (head, card, goTo, map) => {
  const badge = card.size === 0 ? el("span", { class: "badge" }, "unused")
    : card.duplicates.length ? el("span", { class: "badge" }, "nearly the same as ", card.duplicates.join(", ")) : null;
  const groups = new Map();
  for (const share of card.labels) { if (!groups.has(share.label)) groups.set(share.label, []); groups.get(share.label).push(share); }
  return el("article", { class: "card", tabindex: -1 },
    el("header", {}, swatch(card.code), el("h3", { dir: "auto" }, card.name), badge,
      card.size ? el("button", { type: "button", class: "quiet", click: () => map.show(head, card.code), "aria-label": `Show ${card.name} on the map` }, "Map") : null),
    el("p", { class: "muted small measure" }, bar(card.share, "share of the sentences"), `${plural(card.size, "sentence")}, ${percent(card.share)}`,
      card.confidence === null ? null : ` · confidence ${number(card.confidence, 2)}`),
    card.words.length ? el("p", { class: "words", dir: "auto" }, card.words.map((w, i) =>
      el("span", { class: `word w${Math.floor(i / 3)}`, title: `${plural(w.count, "time")}; c-TF-IDF ${number(w.score, 3)}; ${number(w.z, 3)} standard errors above the other codes` }, w.text, " "))) : null,
    groups.size ? el("dl", { class: "shares" }, [...groups].map(([label, shares]) => el("div", {}, el("dt", { dir: "auto" }, label), el("dd", {}, shares.map((s) =>
      el("span", { class: s.lift >= 1.5 && s.count >= 5 ? "share strong" : "share", title: `${plural(s.count, "sentence")}` }, el("bdi", {}, s.name), ` ${percent(s.share)}`,
        el("span", { class: "muted" }, ` ×${number(s.lift, 2)}`))))))) : null,
    card.typical.length ? [el("h4", {}, "Most typical"), el("ul", { class: "sentences" }, card.typical.map((t) => el("li", { title: because(t) }, explained(t))))] : null,
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
  const pick = tabs(D.heads.map((h) => h.name), (i) => { head = D.heads[i]; draw(); });
  const start = Math.max(0, D.heads.findIndex((h) => h.found));
  if (start) pick.pick(start); else draw();
  return [
    el("p", { class: "muted" }, "What each code stands for: words by class-based TF-IDF; the sentences it is surest of, with the words that speak most for it underlined; ",
      "sentences generated for it; and labels with their lift (×2: twice as often as in all sentences)."),
    el("div", { class: "controls" }, pick.node, choice("Sort by", [["size", "size"], ["name", "number"], ["confidence", "surest first"], ["unsure", "least sure first"], ["lift", "label lift"]], (v) => { order = v; draw(); })),
    status, area,
  ];
};

const control = () => {
  const share = (v) => (v === null ? "–" : `${(100 * v).toFixed(1)}%`);
  const own = (C) => { const known = C.agreement.filter((v) => v !== null); return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null; };
  const judged = D.control.some((C) => C.judged.accuracy !== null);
  const parts = [
    el("p", { class: "muted" }, "Is a sentence that was asked to be of a class of that class? An independent judge says so, beside how often it is right on real text, and what guessing gives. ",
      "Codes have no judge but the model's own encoder, which is a weaker witness."),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Control by head" }, el("table", { class: "judged" },
      el("thead", {}, el("tr", {}, ["asked for", "classes", "by the judge", "judge on real text", "by the model's own encoder", "guessing"].map((h, i) => el("th", { scope: "col", class: i ? "num" : "" }, h)))),
      el("tbody", {}, D.control.map((C) => el("tr", {}, el("th", { scope: "row", dir: "auto" }, C.head), el("td", { class: "num" }, number(C.agreement.length)),
        el("td", { class: "num strong" }, C.judged.accuracy === null ? "–" : [bar(C.judged.accuracy), share(C.judged.accuracy), el("span", { class: "muted small" }, ` of ${number(C.judged.n)}`)]),
        el("td", { class: "num" }, share(C.judged.judge)), el("td", { class: "num" }, C.judged.own === null ? [share(own(C)), el("span", { class: "muted small" }, ` of ${number(D.cards[C.head].reduce((sum, card) => sum + card.generated.length, 0))}`)]
          : [share(C.judged.own), el("span", { class: "muted small" }, ` of ${number(C.judged.own_n)}`)]),
        el("td", { class: "num muted" }, share(C.judged.chance))))))),
    judged ? null : el("p", { class: "muted small" }, "No judge was at hand for these: the model's encoder reads the few sentences below."),
  ];
  const holder = el("div"), FEW = 24;
  const draw = (i, all = false) => {
    const C = D.control[i], head = D.heads[i], every = D.cards[head.name], cards = all ? every : every.slice(0, FEW);
    holder.replaceChildren(
      el("div", { class: "charts" },
        C.sweep.length ? lineChart({ title: "Read as asked, by strength", unit: `share of ${C.sweep[0].n}, by the model's encoder`, range: [0, 1], across: "strength (1 = Bayes)",
          points: C.sweep.map((s) => [s.strength, s.agreement]) }) : null,
        C.judged.calibration.length ? lineChart({ title: "Asked for p, and found", unit: "share found by the judge; dashed: exact", range: [0, 1], across: "share asked (strength \"auto\")", diagonal: true,
          points: C.judged.calibration }) : null),
      el("div", { class: "classes" }, cards.map((card, k) => el("section", { class: "class" },
        el("h3", {}, swatch(card.code), el("bdi", {}, card.name), el("span", { class: "muted small" }, C.judged.classes[k] === null ? `${percent(C.agreement[k])} of ${card.generated.length} read so` : `${share(C.judged.classes[k])} by the judge`)),
        el("ul", { class: "sentences made" }, card.generated.map((t) => el("li", {}, say(t))))))),
      cards.length < every.length ? el("p", {}, el("button", { type: "button", class: "quiet", click: () => draw(i, true) }, `Show all ${every.length} classes`)) : "");
  };
  if (D.heads.length) {
    parts.push(tabs(D.heads.map((h) => h.name), (i) => draw(i)).node, holder);
    draw(0);
  }
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
  if (D.twins.length) {
    const heads = D.heads.map((h) => h.name).filter((name) => D.twins.some((t) => name in t.kept));
    const beside = (v, chance) => (v === undefined ? "–" : [el("b", {}, percent(v)), el("span", { class: "muted small" }, ` (${percent(chance)})`)]);
    parts.push(el("h3", {}, "Twins: one symbol changed, the noise kept"),
      el("p", { class: "muted" }, "Two sentences from the same noise under two classes. A symbol that is apart from the others changes its own words and leaves what they read. ",
        "In brackets: sentences from different noise, which have nothing in common but what was asked."),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Twins" }, el("table", {},
        el("thead", {}, el("tr", {}, ["changed", "pairs", "both read as asked", "words that differ"].map((h, i) => el("th", { scope: "col", class: i ? "num" : "" }, h)), heads.map((h) => el("th", { scope: "col", class: "num" }, el("bdi", {}, h), " read alike")))),
        el("tbody", {}, D.twins.map((t) => el("tr", {}, el("th", { scope: "row" }, el("bdi", {}, t.head), ": ", el("bdi", {}, t.first), " → ", el("bdi", {}, t.second)), el("td", { class: "num" }, t.n),
          el("td", { class: "num" }, percent(t.read)), el("td", { class: "num" }, beside(t.changed, t.changed_chance)), heads.map((h) => el("td", { class: "num" }, beside(t.kept[h], t.kept_chance[h])))))))),
      el("div", { class: "trails" }, D.twins.map((t) => el("ol", { class: "trail" }, el("li", { class: "muted small" }, el("bdi", {}, t.first), " → ", el("bdi", {}, t.second)),
        t.changes.map((changes) => el("li", {}, changed(changes, ["in", "out"])))))));
  }
  if (D.attributes.length) {
    parts.push(el("h3", {}, "Attributes added after training"),
      el("p", { class: "muted" }, "Taught to the finished model from a few examples. Accuracy is on examples held out (cross-validated), beside that of always saying the most frequent class."),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Added attributes" }, el("table", {},
        el("thead", {}, el("tr", {}, ["attribute", "examples", "held-out accuracy", "most frequent class", "calibration error"].map((h, i) => el("th", { scope: "col", class: i ? "num" : "" }, h)))),
        el("tbody", {}, D.attributes.map((a) => el("tr", {}, el("th", { scope: "row", dir: "auto" }, a.name), el("td", { class: "num" }, number(a.facts.n)), el("td", { class: "num strong" }, share(a.facts.accuracy ?? null)),
          el("td", { class: "num muted" }, share(a.facts.majority ?? null)), el("td", { class: "num" }, number(a.facts.calibration_error, 2))))))),
      D.attributes.map((a) => el("div", { class: "classes" }, a.classes.map((name, k) => el("section", { class: "class" }, el("h3", {}, el("bdi", {}, `${a.name}: ${name}`)),
        el("ul", { class: "sentences made" }, a.generated[k].map((t) => el("li", {}, say(t)))))))));
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

