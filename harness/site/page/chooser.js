"use strict";
// Which algorithms a view is about: a box for each, by family, and as many kinds of line as there are algorithms.
{
  const SVG = "http://www.w3.org/2000/svg";
  const MARKERS = {
    circle: "●", square: "■", "triangle-up": "▲", diamond: "◆", "triangle-down": "▼", cross: "✚", x: "✖",
    "triangle-left": "◀", "triangle-right": "▶", pentagon: "⬟", hexagon: "⬢",
  };

  // The line of an algorithm, as the curves draw it.
  site.swatch = ({ color, dash, symbol }) => {
    const line = document.createElementNS(SVG, "svg");
    line.setAttribute("class", "swatch");
    line.setAttribute("viewBox", "0 0 30 10");
    line.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", "M0 5H30");
    path.setAttribute("stroke", color ?? "currentColor");
    path.setAttribute("stroke-width", "3");
    const lengths = { solid: "", dash: "8,4", dashdot: "8,3,2,3", dot: "2,3" };
    path.setAttribute("stroke-dasharray", lengths[dash] ?? (dash ?? "").replaceAll("px", ""));
    line.append(path);
    if (symbol) {
      const marker = document.createElementNS(SVG, "text");
      marker.setAttribute("x", "15");
      marker.setAttribute("y", "8");
      marker.setAttribute("fill", color);
      marker.textContent = MARKERS[symbol];
      line.append(marker);
    }
    return line;
  };

  // `usual` are the labels that are on where the address says nothing. Returns the element, and the set of those on.
  site.chooser = (algorithms, usual, change) => {
    const on = new Set(site.state.list("on") ?? usual);
    const title = site.el("summary", {});
    const boxes = new Map();
    const update = () => {
      const same = on.size === usual.length && usual.every((label) => on.has(label));
      site.state.set({ on: same ? null : algorithms.map(({ label }) => label).filter((label) => on.has(label)) });
      boxes.forEach((box, label) => {
        box.checked = on.has(label);
      });
      title.textContent = `Algorithms: ${on.size} of ${algorithms.length}`;
    };
    const set = (labels, wanted) => {
      labels.forEach((label) => (wanted ? on.add(label) : on.delete(label)));
      update();
      change();
    };
    const all = algorithms.map(({ label }) => label);
    const families = Map.groupBy
      ? Map.groupBy(algorithms, ({ family }) => family)
      : algorithms.reduce((found, one) => found.set(one.family, [...(found.get(one.family) ?? []), one]), new Map());
    const element = site.el("details", { class: "menu chooser" }, title,
      site.el("div", { class: "row" }, site.button("all", () => set(all, true)), site.button("none", () => set(all, false)),
        site.button("as at first", () => {
          on.clear();
          set(usual, true);
        })),
      site.el("div", { class: "families" }, [...families].map(([family, members]) =>
        site.el("fieldset", {},
          site.el("legend", {}, family
            ? site.button(family, () => {
              const labels = members.map(({ label }) => label);
              set(labels, !labels.every((label) => on.has(label)));
            }, { title: "All of this family, or none" })
            : "algorithms"),
          members.map((one) => {
            const box = site.check(one.name, false, (checked) => set([one.label], checked), site.swatch(one));
            boxes.set(one.label, box.querySelector("input"));
            return box;
          })))));
    update();
    return { element, on };
  };
}
