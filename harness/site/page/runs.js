"use strict";
// Every run: its row, and when it is chosen its manifest and, where it failed, its traceback.
site.views.runs = {
  title: "Runs",
  async draw(main, suite) {
    const wanted = site.state.get("run");
    const place = suite.cells.findIndex(([name]) => name === wanted);
    if (wanted && place < 0) main.append(site.el("p", { role: "alert" }, `There is no run called ${wanted}.`));
    if (place >= 0) {
      await one(main, suite, place);
      return;
    }
    if (site.uncompared(main, suite)) return;
    const names = suite.runs.columns[0].texts;
    const failed = suite.cells.filter(([, , , status]) => status === "failed").length;
    main.append(site.el("p", {}, `${names.length} runs, ${failed} of them failed. A run's name leads to its `,
      "settings, versions and costs."));
    site.grid(main, suite.runs, { narrow: ["algorithm", "seed"], link: (row) => site.state.link("runs", { run: names[row] }) });

    async function one(parent, { folder, cells, algorithms }, at) {
      const { manifest, traceback } = (await site.load(`${folder}/manifests`))[at] ?? { manifest: null };
      const [name, label, seed, status] = cells[at];
      const curves = status !== "failed" && seed !== null &&
        site.el("a", { class: "button", href: site.state.link("curves", { on: label, band: "seeds" }) }, "Its curves");
      const { name: shown } = algorithms.find((known) => known.label === label) ?? { name: label };
      const json = JSON.stringify(manifest, null, 1);
      site.add(parent,
        site.el("p", {}, site.el("a", { href: site.state.link("runs") }, "All runs")),
        site.el("h2", {}, name),
        site.el("p", {}, `${shown}${seed === null ? "" : `, seed ${seed}`}: ${status}`),
        !manifest && [site.el("p", {}, "It has no manifest before it is over."), curves],
        traceback && site.el("section", { "aria-label": "Traceback" }, site.el("h3", {}, "Why it failed"),
          site.el("pre", { tabindex: "0" }, traceback)),
        manifest && site.el("section", { "aria-label": "Manifest" }, site.el("h3", {}, "Manifest"),
          site.el("div", { class: "toolbar" },
            site.button("Manifest (JSON)", () => site.download(`${name}-manifest.json`, json, "application/json")),
            curves),
          site.el("pre", { tabindex: "0" }, json)));
    }
  },
};
