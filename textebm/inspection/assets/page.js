const build = () => {
  const main = document.getElementById("main"), nav = document.getElementById("nav");
  document.getElementById("brand").textContent = D.run.name;
  const map = latentMap();
  const sections = [
    ["overview", "Overview", overview()],
    ["map", "Map", [el("p", { class: "muted" }, "Each point is a sentence at its posterior mean. Hover to read it; click it for its neighbours, or draw around some to list them. Prior samples lie wider than the means by the posterior's own spread; regions with many of them and no sentence, or the reverse, are where the prior is wrong."), map.node]],
    ["codes", "Codes", D.heads.length ? codeCards(map) : null],
    ["control", "Control", D.heads.length || D.attributes.length ? control() : null],
    ["paths", "Paths", paths()],
    ["labels", "Labels", heatMap()],
    ["training", "Training", training()],
    ["sampler", "Sampler", sampler()],
    ["measured", "Measured", measured()],
  ];
  for (const [id, name, content] of sections) {
    if (!content || !content.length) continue;
    main.append(el("section", { id, "aria-label": name }, id === "overview" ? null : el("h2", {}, { map: "Latent map", labels: "Codes and labels", measured: "All that was measured" }[id] || name), content));
    nav.append(el("a", { href: `#${id}` }, name));
  }
  main.append(el("footer", { class: "muted small" }, `textebm ${D.run.version}. This file is complete: it loads and sends nothing.`));
  map.fit();
  map.follow();
  addEventListener("hashchange", map.follow);
  return map;
};

const shown = D.compared ? compare() : build();
// On paper: in light colours, the map as a drawing, and nothing folded away.
let before = "", folded = [];
addEventListener("beforeprint", () => {
  before = root.dataset.theme || "";
  root.dataset.theme = "light";
  themed();
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((each) => { each.open = true; });
  shown?.print();
});
addEventListener("afterprint", () => {
  if (before) root.dataset.theme = before; else delete root.dataset.theme;
  folded.forEach((each) => { each.open = false; });
  shown?.printed();
  themed();
});
themed();
performance.mark("ready");
root.dataset.ready = "yes";
