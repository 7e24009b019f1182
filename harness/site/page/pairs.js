"use strict";
// The matrix of pairwise differences: row less column.
site.views.pairs = {
  title: "Pairs",
  async draw(main, suite) {
    if (site.uncompared(main, suite)) return;
    const { labels, pairs, notes } = await site.load(`${suite.folder}/pairs`);
    if (labels.length < 2) {
      main.append(site.el("p", {}, "There is no pair of finished algorithms."));
      return;
    }
    const known = suite.algorithms.filter(({ label }) => labels.includes(label));
    const names = new Map(known.map(({ label, name }) => [label, name]));
    const found = new Map(pairs.map((pair) => [`${pair[0]} ${pair[1]}`, pair]));
    const largest = Math.max(...pairs.map(([, , , value]) => Math.abs(value)));
    const box = site.el("div", {});
    const detail = site.el("p", { class: "detail", role: "status" }, "Choose a cell to see its interval and test.");

    // {text, value, sentence, bold} of row less column; null on the diagonal and where no seed is shared.
    const look = (row, column) => {
      const pair = found.get(`${Math.min(row, column)} ${Math.max(row, column)}`);
      if (!pair) return null;
      const [, , seeds, value, text, opposite, p, corrected, bold] = pair;
      const test = p === null ? "not tested" : `p = ${p}, ${corrected} after Holm`;
      const shown = row < column ? text : opposite;
      const who = `${names.get(labels[row])} less ${names.get(labels[column])}`;
      return { text: shown, value: row < column ? value : -value, bold, sentence: `${who}: ${shown}; ${seeds} seeds; ${test}` };
    };
    const shown = () => labels.map((_, place) => place).filter((place) => chooser.on.has(labels[place]));
    const short = (text) => text.split(" ")[0];

    const draw = () => {
      const places = shown();
      const rows = places.map((row) =>
        site.el("tr", {}, site.el("th", { scope: "row" }, names.get(labels[row])), places.map((column) => {
          const one = look(row, column);
          if (!one) return site.el("td", { class: "none" }, row === column ? "·" : "");
          const cell = site.el("td", { class: one.bold ? "pair bold" : "pair", tabindex: "-1", title: one.sentence },
            short(one.text));
          cell.style.setProperty("--strength", `${(60 * Math.abs(one.value)) / (largest || 1)}%`);
          cell.dataset.sign = one.value >= 0 ? "more" : "less";
          return cell;
        })));
      const table = site.el("table", { class: "matrix" }, site.el("caption", { class: "unseen" }, "Pairwise differences"),
        site.el("thead", {}, site.el("tr", {}, site.el("td", {}),
          places.map((place) => site.el("th", { scope: "col" }, site.el("span", {}, names.get(labels[place])))))),
        site.el("tbody", {}, rows));
      table.addEventListener("focusin", ({ target }) => target.title && (detail.textContent = site.visible(target.title)));
      table.addEventListener("mouseover", ({ target }) => target.title && (detail.textContent = site.visible(target.title)));
      table.addEventListener("keydown", (event) => move(table, event));
      const first = table.querySelector("td.pair");
      if (first) first.tabIndex = 0;
      box.replaceChildren(site.scroller("Pairwise differences", table));
    };

    // The arrow keys go from cell to cell; Tab goes past the matrix.
    const move = (table, event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      const cell = event.target.closest("td.pair");
      if (!step || !cell) return;
      event.preventDefault();
      let [row, column] = [cell.parentElement.sectionRowIndex, cell.cellIndex];
      do {
        row += step[0];
        column += step[1];
      } while (table.tBodies[0].rows[row]?.cells[column]?.className === "none");
      const next = table.tBodies[0].rows[row]?.cells[column];
      if (!next?.classList.contains("pair")) return;
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    };

    const chooser = site.chooser(known, labels, draw);
    const asTable = () => {
      const places = shown();
      const columns = [{ name: "row less column", texts: places.map((row) => names.get(labels[row])) }];
      places.forEach((column) => {
        const cells = places.map((row) => look(row, column));
        columns.push({
          name: names.get(labels[column]),
          texts: cells.map((cell) => cell?.text ?? ""),
          bold: cells.map((cell) => cell?.bold ?? false),
        });
      });
      return { columns, rows: places.map((_, row) => row) };
    };
    main.append(site.el("div", { class: "toolbar" }, chooser.element, site.exports("pairs", asTable)), detail, box,
      site.el("ul", { class: "notes" }, notes.map((note) => site.el("li", {}, note))));
    draw();
  },
};
