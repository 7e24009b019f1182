"use strict";
// A table that is sorted, filtered and cut by the reader. DataTables sorts and filters; its cells are ours, and hold text.
{
  const last = (sign) => (a, b) => (a === b ? 0 : a === "" ? 1 : b === "" ? -1 : sign * (a - b));
  DataTable.type("number-last", { order: { asc: last(1), desc: last(-1) } });
  const many = 1000; // rows beyond which there are pages

  const bar = (value, half, [low, high]) => {
    const at = (number) => (100 * (number - low)) / (high - low || 1);
    const line = site.el("i", {});
    const point = site.el("b", {});
    line.style.left = `${at(value - half)}%`;
    line.style.width = `${at(value + half) - at(value - half)}%`;
    point.style.left = `${at(value)}%`;
    return site.el("span", { class: "bar", "aria-hidden": "true" }, line, point);
  };

  const range = ({ values, halves }) => {
    const known = values.flatMap((value, row) =>
      value === null ? [] : [value - (halves[row] ?? 0), value + (halves[row] ?? 0)]);
    return [Math.min(...known), Math.max(...known)];
  };

  const kind = ({ values, texts, kind: own }) =>
    [values ? "number" : "text", own ?? (texts.every((text) => text.length <= 24) ? "short" : "")].join(" ").trim();

  const cell = (column, row, scale, link) => {
    const text = column.texts[row];
    const shown = link ? site.el("a", { href: link }, text) : text;
    const value = column.values?.[row];
    const element = site.el("td", {
      class: column.bold?.[row] ? `${column.look} bold` : column.look,
      "data-order": column.values ? String(value ?? "") : text,
    }, column.draw ? column.draw(row) : shown);
    if (scale && value !== null && value !== undefined && column.halves[row] !== null) {
      element.append(bar(value, column.halves[row], scale));
    }
    return element;
  };

  // Draws the table {what, columns} into `container`. `link(row)` is where the first column leads, `keep(row)` whether a
  // row is wanted at all, `narrow` are columns that a narrow screen hides at first. Returns {refresh}, after which `keep`
  // is asked anew.
  site.grid = (container, table, { link = null, keep = () => true, narrow = [] } = {}) => {
    const what = table.what;
    const columns = table.columns.map((column) => ({ ...column, look: kind(column) }));
    const rows = columns[0].texts.map((_, row) => row);
    const scales = columns.map((column) => (column.halves ? range(column) : null));
    const body = site.el("tbody", {}, rows.map((row) =>
      site.el("tr", {}, columns.map((column, place) =>
        cell(column, row, scales[place], place === 0 && link ? link(row) : null)))));
    const element = site.el("table", { class: "grid" }, site.el("caption", { class: "unseen" }, what),
      site.el("thead", {}, site.el("tr", {}, columns.map(({ name, look }) =>
        site.el("th", { scope: "col", class: look }, name)))), body);
    const count = site.el("span", { class: "count", role: "status" });
    const choice = site.el("details", { class: "menu" }, site.el("summary", {}, "Columns"));
    const search = site.el("input", { type: "search", value: site.state.get("q"), autocomplete: "off" });
    container.append(
      site.el("div", { class: "toolbar" }, site.field("Filter rows", search), choice,
        site.exports(what.replaceAll(" ", "-"), () => shown()), count),
      site.scroller(what, element));

    const grid = new DataTable(element, {
      autoWidth: false,
      columnDefs: columns.map(({ values }, targets) => ({ targets, type: values ? "number-last" : "string" })),
      info: false,
      language: { emptyTable: "There are no rows.", zeroRecords: "No row is left by these filters." },
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: rows.length > many ? "paging" : null },
      order: order(site.state.get("sort")),
      orderMulti: false,
      pageLength: many,
      paging: rows.length > many,
    });
    grid.search.fixed("kept", (_text, _data, row) => keep(row));

    function order(text) {
      const place = columns.findIndex(({ name }) => name === text.replace(/^-/, ""));
      return place < 0 ? [] : [[place, text.startsWith("-") ? "desc" : "asc"]];
    }
    function shown() {
      return {
        columns: columns.filter((_, place) => grid.column(place).visible()),
        rows: grid.rows({ search: "applied", order: "applied" }).indexes().toArray(),
      };
    }
    function counted() {
      const left = grid.rows({ search: "applied" }).count();
      count.textContent = left === rows.length ? `${left} rows` : `${left} of ${rows.length} rows`;
    }
    function hide() {
      const hidden = columns.filter((_, place) => !grid.column(place).visible()).map(({ name }) => name);
      site.state.set({ hide: hidden.join() === usual.join() ? null : hidden });
    }
    const usual = columns.map(({ name }) => name)
      .filter((name) => narrow.includes(name) && matchMedia("(max-width: 40rem)").matches);
    const hidden = site.state.list("hide") ?? usual;
    columns.forEach(({ name }, place) => {
      grid.column(place).visible(!hidden.includes(name), false);
      if (place === 0) return;
      choice.append(site.check(name, !hidden.includes(name), (on) => {
        grid.column(place).visible(on);
        hide();
      }));
    });
    const seek = () => {
      grid.search(search.value).draw();
      counted();
    };
    search.addEventListener("input", site.later(() => {
      site.state.set({ q: search.value });
      seek();
    }));
    seek();
    grid.on("order", () => {
      const [[place, direction] = []] = grid.order();
      const chosen = direction ? `${direction === "desc" ? "-" : ""}${columns[place].name}` : "";
      site.state.set({ sort: chosen });
    });
    return { refresh: seek, shown };
  };
}
