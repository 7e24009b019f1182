"use strict";
// Training curves: any metric against steps, tokens or seconds. Each seed's own points come from the data; means over
// seeds that have no x in common are taken on one grid, as far as all of them went.
{
  const GRID = 200;
  const BANDS = [["t", "mean and 95% t interval"], ["quantiles", "median and 10–90% of the seeds"], ["seeds", "every seed"]];
  const FIRST = ["gvpo", "grpo", "ppo", "dpo", "kimi", "pg"];

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const quantile = (values, share) => {
    const sorted = [...values].sort((a, b) => a - b);
    const at = share * (sorted.length - 1);
    const below = Math.floor(at);
    return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
  };
  const interpolate = ({ x, y }, at) => {
    let right = x.findIndex((value) => value >= at);
    if (right <= 0) right = right < 0 ? x.length - 1 : Math.min(1, x.length - 1);
    const left = Math.max(0, right - 1);
    const share = x[right] === x[left] ? 0 : (at - x[left]) / (x[right] - x[left]);
    return y[left] + share * (y[right] - y[left]);
  };

  // {middle, low, high} of the values that the seeds have at one x.
  const summary = (values, band, critical) => {
    if (band === "quantiles") return [quantile(values, 0.5), quantile(values, 0.1), quantile(values, 0.9)];
    const middle = mean(values);
    if (values.length < 2) return [middle, null, null];
    const variance = values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1);
    const half = critical[values.length - 2] * Math.sqrt(variance / values.length);
    return [middle, middle - half, middle + half];
  };

  // The rows of one algorithm, {x, middle, low, high}; `runs` are its seeds, {seed, x, y}.
  const combine = (runs, axis, band, critical) => {
    if (axis === "step") {
      const steps = [...new Set(runs.flatMap(({ x }) => x))].sort((a, b) => a - b);
      const by = runs.map(({ x, y }) => new Map(x.map((at, place) => [at, y[place]])));
      return steps.map((x) => [x, ...summary(by.filter((one) => one.has(x)).map((one) => one.get(x)), band, critical)]);
    }
    const first = Math.max(...runs.map(({ x }) => x[0]));
    const last = Math.min(...runs.map(({ x }) => x.at(-1)));
    if (last <= first) return [];
    return Array.from({ length: GRID }, (_, place) => first + (place * (last - first)) / (GRID - 1)).map((x) =>
      [x, ...summary(runs.map((run) => interpolate(run, x)), band, critical)]);
  };

  const gather = (suite, axis, values) => {
    const x = new Map(axis);
    const found = new Map();
    values.forEach(([place, y]) => {
      const [, label, seed] = suite.cells[place];
      const points = (x.get(place) ?? []).map((at, row) => [at, y[row]]).filter(([at, value]) => at !== null && value !== null);
      if (!points.length) return;
      if (!found.has(label)) found.set(label, []);
      found.get(label).push({ seed, x: points.map(([at]) => at), y: points.map(([, value]) => value) });
    });
    return found;
  };

  // Plotly takes <…> in a text for markup.
  const inert = (text) => site.visible(text).replaceAll("<", "‹");

  const clear = (color, alpha) =>
    `rgba(${[1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)).join(",")},${alpha})`;

  const traces = (one, runs, axis, band, critical, rows) => {
    const line = { color: one.color, dash: one.dash, width: 2 };
    const common = { legendgroup: one.label, name: inert(one.name), type: "scatter" };
    if (band === "seeds") {
      return runs.map(({ seed, x, y }) =>
        ({ ...common, x, y, line: { ...line, width: 1 }, mode: "lines", hovertemplate: `%{x}: %{y}<extra>seed ${seed}</extra>` }));
    }
    const x = rows.map(([at]) => at);
    const known = rows.filter(([, , low]) => low !== null);
    return [
      { ...common, x: [...known.map(([at]) => at), ...known.map(([at]) => at).reverse()],
        y: [...known.map(([, , , high]) => high), ...known.map(([, , low]) => low).reverse()],
        fill: "toself", fillcolor: clear(one.color, 0.15), hoverinfo: "skip", line: { width: 0 }, mode: "lines" },
      { ...common, x, y: rows.map(([, middle]) => middle), line, mode: rows.length > 60 ? "lines" : "lines+markers",
        marker: { symbol: one.symbol, size: 6, color: one.color } },
    ];
  };

  const layout = (names, log, ranges) => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = (title, kind, range) => ({
      title: { text: inert(title) }, type: kind, gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true,
      ...(range ? { range, autorange: false } : {}),
    });
    return {
      xaxis: axis(names.x, log.x ? "log" : "linear", ranges.x), yaxis: axis(names.y, log.y ? "log" : "linear", ranges.y),
      paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: colour("--text"), family: "inherit" },
      modebar: { bgcolor: "transparent", color: colour("--quiet"), activecolor: colour("--accent") },
      margin: { l: 50, r: 12, t: 32, b: 45 }, showlegend: false, hovermode: "closest",
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
    };
  };

  const usual = (algorithms) => {
    const labels = algorithms.map(({ label }) => label);
    const first = labels.filter((label) => FIRST.includes(label));
    return labels.length <= 8 ? labels : first.length > 1 ? first : labels.slice(0, 6);
  };

  site.views.curves = {
    title: "Curves",
    async draw(main, suite) {
      const { axes, metrics, critical_t: critical, folder } = suite;
      const algorithms = suite.algorithms.filter(({ color }) => color);
      if (!metrics.length) {
        main.append(site.el("p", {}, "No run of this suite recorded a training step."));
        return;
      }
      const chosen = () => ({
        y: metrics.includes(site.state.get("y")) ? site.state.get("y") : metrics[0],
        x: site.state.get("x") in axes ? site.state.get("x") : Object.keys(axes)[0],
        band: BANDS.some(([key]) => key === site.state.get("band")) ? site.state.get("band") : "t",
        log: { x: site.state.get("logx") === "1", y: site.state.get("logy") === "1" },
      });
      const plot = site.el("div", { class: "plot", role: "img" });
      const list = site.el("div", {});
      const set = (values) => {
        site.state.set({ xr: null, yr: null, ...values });
        redraw();
      };
      const chooser = site.chooser(algorithms, usual(algorithms), () => redraw());
      const { x, y, band, log } = chosen();
      main.append(
        site.el("div", { class: "toolbar" },
          site.select("Metric", metrics.map((name) => [name, name]), y, (value) => set({ y: value })),
          site.select("Against", Object.entries(axes), x, (value) => set({ x: value })),
          site.select("Drawn", BANDS, band, (value) => set({ band: value })),
          site.check("log x", log.x, (on) => set({ logx: on ? "1" : null })),
          site.check("log y", log.y, (on) => set({ logy: on ? "1" : null })), chooser.element,
          site.button("Whole range", () => set({}))),
        site.el("div", { class: "sides" },
          site.el("div", {}, plot,
            site.el("p", { class: "hint" }, "Drag with a mouse to zoom, or use the buttons at the top of the plot.")), list));
      await Promise.all([site.libraries.plotly(), site.load(`${folder}/axis-${x}`)]);

      let turn = 0;
      const redraw = async () => {
        turn += 1;
        const mine = turn;
        const now = chosen();
        const [axis, values] = await Promise.all([
          site.load(`${folder}/axis-${now.x}`), site.load(`${folder}/curves-${metrics.indexOf(now.y)}`)]);
        if (mine !== turn || !plot.isConnected) return;
        const found = gather(suite, axis, values);
        const shown = algorithms.filter(({ label }) => chooser.on.has(label) && found.has(label));
        const rows = new Map(shown.map(({ label }) => [label, combine(found.get(label), now.x, now.band, critical)]));
        summarise(list, suite, shown, found, rows, now);
        const part = (key) => site.state.get(key) && site.state.get(key).split(",").map(Number);
        plot.setAttribute("aria-label", `${now.y} against ${axes[now.x]}; the table below has the last values`);
        await Plotly.react(plot,
          shown.flatMap((one) => traces(one, found.get(one.label), now.x, now.band, critical, rows.get(one.label))),
          layout({ x: axes[now.x], y: now.y }, now.log, { x: part("xr"), y: part("yr") }),
          { displaylogo: false, responsive: true, displayModeBar: true,
            modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], showSendToCloud: false });
        if (!plot.dataset.watched) {
          plot.dataset.watched = "1";
          plot.on("plotly_relayout", remember);
        }
        plot.dataset.drawn = String(turn);
      };
      const remember = (change) => {
        const range = (name) =>
          change[`${name}.autorange`] ? null : [change[`${name}.range[0]`], change[`${name}.range[1]`]].map((at) => at?.toPrecision(6));
        for (const [name, key] of [["xaxis", "xr"], ["yaxis", "yr"]]) {
          if (`${name}.range[0]` in change || `${name}.autorange` in change) {
            site.state.set({ [key]: range(name)?.join(",") ?? null });
          }
        }
      };
      site.onTheme = redraw;
      await redraw();
    },
  };

  // Below the plot, a row a curve: its last value, and its points as CSV.
  const summarise = (list, suite, shown, found, rows, now) => {
    const heading = now.band === "quantiles" ? ["median", "p10", "p90"] : ["mean", "low", "high"];
    const lines = ({ label, name }) => [
      ...(now.band === "seeds"
        ? found.get(label).flatMap(({ seed, x, y }) => x.map((at, place) => [name, seed, at, y[place]]))
        : rows.get(label).map((row) => [name, ...row])),
    ];
    const save = (which, what) => {
      const names = now.band === "seeds" ? ["algorithm", "seed", now.x, now.y] : ["algorithm", now.x, ...heading];
      const all = which.flatMap(lines);
      const columns = names.map((text, place) => ({ name: text, texts: all.map((row) => String(row[place] ?? "")) }));
      site.download(`${suite.suite}-${now.y}-${what}.csv`, site.formats.csv({ columns, rows: all.map((_, row) => row) }), "text/csv");
    };
    const number = (value) => (value === null || value === undefined ? "" : Number(value.toPrecision(4)).toString());
    list.replaceChildren(
      site.el("div", { class: "toolbar" }, site.button("All curves shown (CSV)", () => save(shown, "curves"))),
      site.scroller("Curves", site.el("table", { class: "legend" },
        site.el("caption", { class: "unseen" }, "The curves that are shown"),
        site.el("thead", {}, site.el("tr", {}, ["", "algorithm", "seeds", `last ${now.y}`, "interval", "points"].map((text) =>
          site.el("th", { scope: "col" }, text)))),
        site.el("tbody", {}, shown.map((one) => {
          const last = rows.get(one.label).at(-1);
          const spread = last && last[2] !== null ? `${number(last[2])} to ${number(last[3])}` : "";
          return site.el("tr", {}, site.el("td", {}, site.swatch(one)), site.el("th", { scope: "row" }, one.name),
            site.el("td", { class: "number" }, String(found.get(one.label).length)),
            site.el("td", { class: "number" }, number(last?.[1])), site.el("td", { class: "number" }, spread),
            site.el("td", {}, site.button("CSV", () => save([one], one.label),
              { "aria-label": `points of ${site.visible(one.name)} as CSV` })));
        })))));
  };
}
