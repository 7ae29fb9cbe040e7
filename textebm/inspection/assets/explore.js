// A run to try: every panel asks the server that the page comes from, and shows the answer to the latest question.
const MOST = 10; // of a slider of strength
const again = []; // what is done when the codes' names change

const ask = async (question, body) => {
  const reply = await fetch(question, { method: "POST", body: JSON.stringify(body) })
    .catch(() => { throw new Error("textebm explore gives no answer: see what it says in its terminal, or start it again and open the address that it prints"); });
  if (!reply.ok) throw new Error(`the server refused the question (${reply.status}); load the page again`);
  const { answer, error } = await reply.json();
  if (error) throw new Error(error);
  return answer;
};
const problem = (error) => el("p", { class: "problem", role: "alert", dir: "auto" }, error.message);

// Ask, after a moment of rest, what *gather* wants to know (null: nothing), and show what *draw* makes of the answer in
// *output*. One question at a time: what changes meanwhile is asked when the answer is there.
const live = (question, output, gather, draw) => {
  let timer = 0, busy = false, stale = false;
  const go = async () => {
    if (busy) { stale = true; return; }
    const body = gather();
    if (body === null) { output.replaceChildren(); return; }
    busy = true;
    output.setAttribute("aria-busy", "true");
    const shown = await ask(question, context ? { ...body, context: context() } : body).then(draw).catch(problem);
    output.replaceChildren(...[shown].flat(3).filter(Boolean));
    output.removeAttribute("aria-busy");
    busy = false;
    if (stale) { stale = false; go(); }
  };
  again.push(go);
  return () => { clearTimeout(timer); timer = setTimeout(go, 120); };
};

const sentence = (label, value, change) => {
  const input = el("input", { type: "text", class: "sentence", value, dir: "auto", spellcheck: "false", autocomplete: "off", input: change });
  return { input, node: el("label", { class: "field grow" }, el("span", {}, label), input) };
};
const slider = (label, { min, max, step, value }, change) => {
  const output = el("output", {}, String(value));
  const input = el("input", { type: "range", min, max, step, value, "aria-label": label, input: () => { output.textContent = input.value; change(); } });
  return { input, node: el("span", { class: "slider" }, input, output) };
};
const lines = (text) => text.split("\n").map((each) => each.trim()).filter(Boolean);
const listed = (text) => text.split(",").map((each) => each.trim()).filter(Boolean);

// A menu for each symbol, with a slider for how strongly it is asked for.
const wishes = (change, weighted) => {
  const holder = el("div", { class: "wishes" }), rows = new Map();
  const options = (head) => [el("option", { value: "" }, "anything"), head.classes.map((c) => el("option", { value: c.number }, c.name)),
    head.classes.length > 2 ? el("optgroup", { label: "any but" }, head.classes.map((c) => el("option", { value: `!${c.number}` }, `not ${c.name}`))) : null];
  for (const head of D.heads) {
    const select = el("select", { "aria-label": head.name, change: () => { row.classList.toggle("off", select.value === ""); change(); } });
    const weight = weighted ? slider(`strength of ${head.name}`, { min: 0, max: MOST, step: 0.5, value: Math.min(MOST, D.strength) }, change) : null;
    const row = el("div", { class: "wish off", "data-head": head.name }, el("span", { class: "muted", dir: "auto" }, head.name), select, weight?.node);
    rows.set(head.name, { select, weight });
    holder.append(row);
  }
  const fill = () => {
    for (const head of D.heads) {
      const { select } = rows.get(head.name), kept = select.value;
      select.replaceChildren(...options(head).flat(2).filter(Boolean));
      select.value = kept;
    }
  };
  fill();
  const asked = () => [...rows].filter(([, { select }]) => select.value !== "").map(([head, { select, weight }]) => ({
    head, class: Number(select.value.replace("!", "")), not: select.value.startsWith("!"), weight: weight ? Number(weight.input.value) : 1 }));
  const choose = (head, number) => { const { select } = rows.get(head); select.value = String(number); select.dispatchEvent(new Event("change")); };
  return { node: holder, asked, fill, choose };
};

const chips = (read) => read.map((r) => el("span", { class: `read ${r.as_asked ? "yes" : "no"}`, dir: "auto", title: `${r.head}: read as ${r.name}` }, r.as_asked ? "✓ " : "✗ ", r.name));
const curable = () => D.heads.filter((head) => head.curable);

// -- the panels --------------------------------------------------------------------------------------------------
let context = null; // of a model of dialogues: the turns that are answered
const dialogue = () => {
  if (!D.dialogue) return null;
  const area = el("textarea", { rows: 3, dir: "auto", placeholder: "one turn a line, the oldest first; empty: nothing was said before", input: () => again.forEach((go) => go()) });
  context = () => lines(area.value);
  return el("label", { class: "field" }, el("span", {}, "What was said before"), area);
};

// The sentence with what each word adds above it: much is marked, against is marked otherwise.
const why = (head) => {
  const most = Math.max(1e-9, ...head.parts.map(Math.abs));
  return el("p", { class: "because", dir: "auto" }, head.words.map((word, i) => {
    const share = Math.abs(head.parts[i]) / most, signed = `${head.parts[i] < 0 ? "−" : "+"}${Math.abs(head.parts[i]).toFixed(1)}`;
    const node = el("span", { class: head.parts[i] < 0 ? "against" : "for", title: `${signed} nats` }, el("small", {}, share > 0.2 ? signed : "\u00a0"), el("span", {}, word || "\u00a0"));
    node.style.setProperty("--share", `${Math.round(45 * share)}%`);
    return [node, " "];
  }));
};
const readPanel = () => {
  const output = el("div", { class: "answer", "aria-live": "polite" });
  const go = live("read", output, () => (input.value.trim() ? { text: input.value } : null), (told) => [
    el("div", { class: "cards" }, told.heads.map((head) => el("article", { class: "card", "data-head": head.name },
      el("p", { class: "muted small", dir: "auto" }, head.name),
      el("header", {}, swatch(head.number), el("h3", { dir: "auto" }, head.label)),
      el("dl", { class: "bars" }, head.classes.map(([number_, name, p]) => el("div", { class: number_ === head.number ? "first" : "" }, el("dt", { dir: "auto", title: name }, name), el("dd", {}, bar(p), percent(p))))),
      why(head)))),
    el("p", { class: "muted" }, "What the latent keeps of it: ", say(told.back)), told.lost ? el("p", { class: "problem" }, told.lost) : null]);
  const { input, node } = sentence("A sentence", D.examples[0] || "", go);
  return { content: [node, output], go, input, note: "The classes of each symbol, and what each word adds to the logarithm of the first one's probability, in nats." };
};

const writePanel = (open) => {
  const output = el("div", { class: "answer", "aria-live": "polite" });
  const go = live("write", output, () => ({ asked: wish.asked(), seed: Number(seed.value) || 0, containing: listed(containing.input.value), without: listed(without.input.value) }), (rows) => {
    const steered = rows.some((row) => row.text !== row.free);
    return el("ol", { class: "twins" }, rows.map((row) => el("li", {},
      el("button", { type: "button", class: "link", title: "Read and edit this sentence", click: () => open(row.text) }, steered ? changed(row.changes, ["in"]) : say(row.text), " ", chips(row.read)),
      steered ? el("span", { class: "muted small", title: "the same noise, nothing asked" }, say(row.free)) : null)));
  });
  const wish = wishes(go, true);
  const seed = el("input", { type: "number", min: 0, max: 4294967295, value: 0, input: go });
  const containing = sentence("With the words", "", go), without = sentence("Without the words", "", go);
  containing.input.placeholder = without.input.placeholder = "word, word";
  const more = el("button", { type: "button", class: "quiet", click: () => { seed.value = Number(seed.value) + 1; go(); } }, "Next seed");
  again.push(wish.fill);
  return { wish, content: [el("div", { class: "desk" }, el("div", {}, wish.node, el("div", { class: "controls" }, containing.node, without.node,
    el("label", { class: "field" }, el("span", {}, "Seed"), seed), more)), output)], go,
    note: "Each sentence under the symbols that you choose, as strongly as you say (1 is Bayes’ rule), and under it what the same noise says when nothing is asked. Marked words differ." };
};

const editPanel = () => {
  const output = el("div", { class: "answer", "aria-live": "polite" });
  const go = live("edit", output, () => (input.value.trim() && wish.asked().length ? { text: input.value, asked: wish.asked(), keep: Number(keep.input.value) } : null), (told) => [
    el("p", { class: "edited" }, changed(told.changes, ["in", "out"])),
    el("p", { class: "muted" }, told.before.map((r, i) => [i ? " · " : "", el("bdi", {}, r.head), ": ", el("bdi", {}, r.name), " → ", chips([told.after[i]])]))]);
  const { input, node } = sentence("A sentence", D.examples[1] || "", go);
  const wish = wishes(go, false), keep = slider("nats a changed word must gain", { min: 0, max: 12, step: 0.5, value: 6 }, go);
  again.push(wish.fill);
  return { content: [node, el("div", { class: "controls" }, wish.node, el("label", { class: "field" }, el("span", {}, "Nats a changed word must gain"), keep.node)), output], go, input,
    note: "The least change after which the sentence is read as you ask.", wish };
};

const walkPanel = () => {
  const output = el("div", { class: "answer", "aria-live": "polite" });
  const go = live("walk", output, () => (a.input.value.trim() && b.input.value.trim() ? { a: a.input.value, b: b.input.value, steps: Number(steps.input.value) } : null), (rows) =>
    el("ol", { class: "trail" }, rows.map((row, i) => el("li", {}, el("span", { class: "step muted" }, percent(i / (rows.length - 1))), changed(row.changes, ["in"]),
      el("span", { class: "muted small" }, D.heads.slice(0, 4).map((head, j) => [j ? " · " : "", el("bdi", {}, row.labels[head.name].name)]))))));
  const a = sentence("From", D.examples[2] || "", go), b = sentence("To", D.examples[3] || "", go);
  const steps = slider("sentences on the way", { min: 2, max: 15, step: 1, value: 7 }, go);
  return { content: [el("div", { class: "controls" }, a.node, b.node, el("label", { class: "field" }, el("span", {}, "Sentences"), steps.node)), output], go,
    note: "The arc between the latents of two sentences, ends as the model says them. Marked words are new." };
};

const codesPanel = () => {
  if (!curable().length) return null;
  const table = el("div"), status = el("p", { class: "muted small", role: "status" }, `Kept in ${D.run}/codes.yaml, for every command. An empty name gives a code its words back.`);
  const rename = async (head, code, name, input) => {
    try {
      D.heads = await ask("rename", { head, code, name });
      status.textContent = `Saved: code ${code} is called ${D.heads.find((h) => h.name === head).classes.find((c) => c.number === code).name}.`;
      input.removeAttribute("aria-invalid");
      again.forEach((go) => go());
    } catch (error) { status.replaceChildren(problem(error)); input.setAttribute("aria-invalid", "true"); }
  };
  const draw = (place) => {
    const head = curable()[place];
    table.replaceChildren(el("div", { class: "scroll" }, el("table", { class: "names" }, el("thead", {}, el("tr", {}, ["", "Name", "Its words"].map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, head.classes.map((c) => {
        const named = c.name.startsWith(`${c.number} ·`) || c.name === String(c.number) ? "" : c.name;
        const input = el("input", { type: "text", dir: "auto", value: named, placeholder: c.name, "aria-label": `name of code ${c.number}`, change: () => rename(head.name, c.number, input.value, input) });
        return el("tr", { "data-code": c.number }, el("td", {}, swatch(c.number)), el("td", {}, input), el("td", { class: "muted", dir: "auto" }, c.words));
      })))));
  };
  draw(0);
  return { content: [curable().length > 1 ? choice("Symbol", curable().map((head, i) => [i, head.name]), draw) : null, table, status], go: () => {}, note: "What you call a code is what you see everywhere." };
};

const explore = () => {
  const main = document.getElementById("main"), nav = document.getElementById("nav");
  document.getElementById("brand").textContent = D.name;
  const before = dialogue(), read = readPanel(), write = writePanel((text) => open(text)), edit = D.heads.length ? editPanel() : null;
  const open = (text) => { read.input.value = text; read.go(); if (edit) { edit.input.value = text; edit.go(); } document.getElementById("read").scrollIntoView(); };
  main.append(el("h1", { dir: "auto" }, D.name), D.description ? el("p", { class: "lead", dir: "auto" }, D.description) : "", before || "");
  for (const [id, name, panel] of [["read", "Read", read], ["write", "Write", write], ["edit", "Edit", edit], ["walk", "Walk", walkPanel()], ["codes", "Codes", codesPanel()]]) {
    if (!panel) continue;
    main.append(el("section", { id, "aria-label": name }, el("h2", {}, name), el("p", { class: "muted" }, panel.note), panel.content));
    nav.append(el("a", { href: `#${id}` }, name));
    panel.go();
  }
  if (edit) ask("read", { text: D.examples[1], ...(context ? { context: [] } : {}) }).then((told) => { // something to see
    const [head] = told.heads, other = D.heads[0].classes.find((c) => c.number !== head.number);
    if (other) for (const panel of [edit, write]) panel.wish.choose(head.name, other.number);
  }, () => {});
  main.append(el("footer", { class: "muted small" }, "Served by textebm explore on this machine; nothing leaves it."));
};
explore();
themed();
root.dataset.ready = "yes";
