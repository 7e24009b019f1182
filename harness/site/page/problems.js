"use strict";
// The list of problems, with each algorithm's mean score; a problem leads to its responses (responses.js).
{
  const trained = (algorithms) => algorithms.filter((label) => label !== "base");

  // One strip a problem: a bar for each chosen algorithm, as high as its score. Form tells it, not colour.
  site.strip = (scores) => {
    const share = 100 / scores.length;
    const element = site.el("span", { class: "strip", "aria-hidden": "true" });
    element.append(...scores.map((score, place) => {
      const one = site.el("i", {});
      one.style.left = `${place * share}%`;
      one.style.width = `${share}%`;
      one.style.height = `${100 * (score ?? 0)}%`;
      return one;
    }));
    return element;
  };

  // A problem with all else as the reader has set it.
  site.problemLink = ({ benchmark, id }) => {
    const settings = new URLSearchParams(location.hash.split("?")[1] ?? "");
    settings.set("benchmark", benchmark);
    settings.set("problem", id);
    return site.state.link("problems", settings);
  };

  const notes = ({ seeds, unknown }, suite, drawn) => {
    const all = [...new Set(suite.cells.map(([, , seed]) => seed).filter((seed) => seed !== null))].sort((a, b) => a - b);
    const which = seeds.length === all.length ? `all ${all.length} seeds` : `seeds ${seeds.join(", ")} of ${all.length}`;
    return [
      drawn ? `Drawn in training, at the steps that were kept; of ${which}. Rewards are what was trained on.`
        : `Verdicts are those of every sample of every finished run; responses those of ${which}.`,
      ...Object.entries(unknown).map(([name, reason]) => `Questions and gold answers of ${name} are not shown: ${reason}`),
    ];
  };

  site.views.problems = {
    title: "Problems",
    async draw(main, suite) {
      const drawn = suite.kept && (site.state.get("of") === "training" || !suite.tables.length);
      if (!drawn && site.uncompared(main, suite)) return;
      const data = await site.load(`${suite.folder}/${drawn ? "training" : "problems"}`);
      site.addEscaped(data.escaped);
      const { problems, algorithms } = data;
      const known = suite.algorithms.filter(({ label }) => algorithms.includes(label));
      const usual = trained(algorithms).length ? trained(algorithms) : algorithms;
      const parts = site.el("div", {});
      const chooser = site.chooser(known, usual, () => draw());
      const least = () => Number(site.state.get("apart", "0")) || 0;
      const places = () => algorithms.map((_, place) => place).filter((place) => chooser.on.has(algorithms[place]));
      const scores = (problem) => places().map((place) => problem.scores[place]);
      const apart = (problem) => {
        const found = scores(problem).filter((score) => score !== null);
        return found.length ? Math.max(...found) - Math.min(...found) : 0;
      };
      const wanted = () => {
        const benchmark = site.state.get("benchmark");
        return problems.filter((problem) => (!benchmark || problem.benchmark === benchmark) && apart(problem) >= least());
      };

      const list = () => {
        const rows = wanted();
        const found = rows.map(scores);
        const middle = found.map((row) => {
          const there = row.filter((score) => score !== null);
          return there.length ? there.reduce((sum, score) => sum + score, 0) / there.length : null;
        });
        const spread = rows.map(apart);
        const column = (name, texts, more = {}) => ({ name, texts, ...more });
        const number = (values) => values.map((value) => (value === null ? "" : value.toFixed(3)));
        const columns = [
          column("problem", rows.map(({ id }) => id)),
          column("benchmark", rows.map(({ benchmark }) => benchmark)),
          column("question", rows.map(({ question }) => question ?? ""), { kind: "long" }),
          column("gold answer", rows.map(({ gold }) => gold ?? "")),
          column("mean score", number(middle), { values: middle }),
          column("apart by", number(spread), { values: spread }),
          column("scores", found.map((row) => number(row).join(" ")), { kind: "scores", draw: (row) => site.strip(found[row]) }),
        ];
        const keep = columns.filter(({ texts }) => texts.some(Boolean) || !texts.length);
        if (!rows.length) {
          parts.replaceChildren(site.el("p", {}, "On no problem are the chosen algorithms that far apart."));
          return;
        }
        parts.replaceChildren();
        site.grid(parts, { what: "problems", columns: keep }, {
          narrow: ["benchmark", "question"],
          link: (row) => site.problemLink(rows[row]),
        });
      };

      const slider = site.el("input", { type: "range", min: "0", max: "1", step: "0.05", value: String(least()) });
      const output = site.el("output", {}, least().toFixed(2));
      const benchmarks = [...new Set(problems.map(({ benchmark }) => benchmark))];
      slider.addEventListener("input", () => {
        output.textContent = Number(slider.value).toFixed(2);
      });
      slider.addEventListener("input", site.later(() => {
        site.state.set({ apart: Number(slider.value) ? slider.value : null });
        draw();
      }));
      const chosen = () =>
        site.state.get("problem") &&
        problems.find(({ id, benchmark }) =>
          id === site.state.get("problem") && benchmark === site.state.get("benchmark", benchmark));
      const step = () => (data.steps?.includes(Number(site.state.get("step"))) ? site.state.get("step") : "");
      const toolbar = site.el("div", { class: "toolbar" },
        suite.kept && site.select("Responses", [["", "of the evaluation"], ["training", "drawn in training"]],
          drawn ? "training" : "", (value) => {
            site.state.set({ of: value || null, problem: null, benchmark: null, step: null, seed: null, sort: null, hide: null, on: null });
            site.show();
          }),
        chooser.element,
        drawn && site.select("Step", [["", "all that were kept"], ...data.steps.map((at) => [String(at), String(at)])], step(),
          (value) => {
            site.state.set({ step: value || null });
            draw();
          }),
        !drawn && !site.state.get("problem") && [
          benchmarks.length > 1 && site.select("Benchmark", [["", "all"], ...benchmarks.map((name) => [name, name])],
            site.state.get("benchmark"), (value) => {
              site.state.set({ benchmark: value || null });
              draw();
            }),
          site.el("span", { class: "field" }, site.field("Apart by at least", slider), output),
        ]);
      const draw = () => {
        const one = chosen();
        if (site.state.get("problem") && !one) {
          parts.replaceChildren(site.el("p", { role: "alert" }, `There is no problem ${site.state.get("problem")}. `,
            site.el("a", { href: site.state.link("problems", drawn ? { of: "training" } : {}) }, "All problems")));
        } else if (one && drawn) {
          return site.trainingProblem(parts, suite, data, one, chooser.on);
        } else if (one) {
          return site.responses(parts, suite, data, one, wanted(), chooser.on);
        } else if (drawn) {
          site.trainingList(parts, data, places(), step());
        } else {
          list();
        }
        return null;
      };
      site.add(main,
        site.el("ul", { class: "notes" }, notes(data, suite, drawn).map((note) => site.el("li", {}, note)),
          !drawn && !site.state.get("problem") && site.el("li", {},
            "Apart by: the highest less the lowest mean score of the chosen algorithms, over all their seeds and samples. ",
            "Scores: a bar for each of them, in the order of the leaderboard.")),
        toolbar, parts);
      await draw();
    },
  };
}
