"use strict";
// The published tables, one at a time, and what must be known to judge them.
site.views.leaderboard = {
  title: "Leaderboard",
  async draw(main, suite) {
    const { tables, notes, provenance, algorithms } = suite;
    if (site.uncompared(main, suite)) return;
    const wanted = site.state.get("table", tables[0].what);
    const table = tables.find(({ what }) => what === wanted) ?? tables[0];
    const body = site.el("div", {});
    const place = table.columns.findIndex(({ name }) => name === "algorithm");
    const labels = new Map(algorithms.map(({ label, name }) => [name, label]));
    // A row is one of an algorithm or, in an ablation, of a point and an algorithm, which are its first columns.
    const named = (row) => table.columns.slice(0, place + 1).map(({ texts }) => texts[row]).join(" ").trim();
    const label = (row) => labels.get(named(row)) ?? labels.get(table.columns[place]?.texts[row]);
    const chosen = algorithms.map((one) => one.label);
    let grid = null;
    const chooser = site.chooser(algorithms, chosen, () => grid.refresh());
    const link = (row) => (labels.has(named(row)) ? site.state.link("runs", { q: named(row) }) : null);
    site.add(main,
      site.el("div", { class: "toolbar" },
        tables.length > 1 &&
          site.select("Table", tables.map(({ what }) => [what, what]), table.what, (what) => {
            site.state.set({ table: what === tables[0].what ? null : what, sort: null, hide: null });
            site.show();
          }),
        labels.size > 1 && place >= 0 && chooser.element,
        site.el("a", { class: "button", href: `data/${suite.folder}/all.zip`, download: `${suite.folder}.zip` },
          "All data (zip)")),
      body,
      site.el("section", { "aria-label": "Notes" }, site.el("h2", {}, "How to read this"),
        site.el("ul", { class: "notes" }, notes.map((note) => site.el("li", {}, note)))),
      site.el("section", { "aria-label": "Provenance" }, site.el("h2", {}, "How this was made"),
        site.el("dl", {}, provenance.map(([name, values]) => [
          site.el("dt", {}, name),
          values.map(([value, count]) =>
            site.el("dd", {}, site.el("code", {}, value), values.length > 1 && ` (${count} cells)`)),
        ])),
        site.el("p", {}, "All data: the tables in full precision with both ends of every interval, each seed, each ",
          "step, every pair, every evaluated sample, every manifest.")));
    grid = site.grid(body, table, {
      link,
      keep: (row) => label(row) === undefined || chooser.on.has(label(row)),
      narrow: ["family", "seeds"],
    });
  },
};
