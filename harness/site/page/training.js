"use strict";
// The responses that training drew, at the steps that were kept: a list of problems, and one problem step by step.
{
  const FEW = 4;
  const mean = (values) => {
    const known = values.filter((value) => value !== null && value !== undefined);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  };
  const short = (value) => Number(value.toPrecision(3));
  const number = (value) => (value === null ? "" : value.toFixed(3));

  // The mean reward of each chosen algorithm on a problem, at one step or all.
  const rewards = (problem, places, step) => {
    const rows = Object.entries(problem.rewards).filter(([at]) => !step || at === step).map(([, row]) => row);
    return places.map((place) => mean(rows.map((row) => row[place])));
  };

  site.trainingList = (parent, data, places, step) => {
    const problems = data.problems.filter((problem) => !step || step in problem.rewards);
    const found = problems.map((problem) => rewards(problem, places, step));
    const middle = found.map(mean);
    const spread = found.map((row) => {
      const known = row.filter((value) => value !== null);
      return known.length ? Math.max(...known) - Math.min(...known) : null;
    });
    const all = [
      { name: "problem", texts: problems.map(({ id }) => id) },
      { name: "question", texts: problems.map(({ question }) => question ?? ""), kind: "long" },
      { name: "gold answer", texts: problems.map(({ gold }) => gold ?? "") },
      { name: "steps", texts: problems.map((problem) => Object.keys(problem.rewards).join(", ")) },
      { name: "mean reward", texts: middle.map(number), values: middle },
      { name: "apart by", texts: spread.map(number), values: spread },
      { name: "rewards", texts: found.map((row) => row.map(number).join(" ")), kind: "scores",
        draw: (row) => site.strip(found[row]) },
    ];
    parent.replaceChildren();
    site.grid(parent, { what: "training problems", columns: all.filter(({ texts }) => texts.some(Boolean)) }, {
      narrow: ["question", "steps"],
      link: (row) => site.problemLink(problems[row]),
    });
  };

  const card = (algorithm, steps, problem) =>
    site.el("article", { class: "card", "aria-label": algorithm.name }, site.el("h3", {}, algorithm.name),
      steps.length === 0 && site.el("p", { class: "fine" }, "None was kept."),
      steps.map(([step, rows]) => {
        const groups = site.together(rows.map(([place, , text, logp, samples]) => [place, text, logp, samples]), problem.cells);
        const samples = groups.reduce((sum, one) => sum + one.samples, 0);
        const earned = groups.reduce((sum, one) => sum + one.samples * problem.texts[one.text][5], 0) / samples;
        const show = (one) => {
          const [shown, answer, verdict, truncated, tokens, reward] = problem.texts[one.text];
          return site.response(one, { shown, answer, verdict, tokens, truncated,
            more: [`reward ${short(reward)}`, one.values[0].length > 0 && `log-prob ${site.between(one.values[0].map(short))} nats`] });
        };
        const list = site.el("ul", {}, groups.slice(0, FEW).map(show));
        const rest = groups.slice(FEW);
        return site.el("section", { "aria-label": `step ${step}` },
          site.el("h4", {}, `step ${step}`), site.el("p", { class: "fine" },
            `${samples} sample${samples > 1 ? "s" : ""}, mean reward ${short(earned)}`),
          list, rest.length > 0 && site.el("details", { class: "fine" },
            site.el("summary", {}, `${rest.length} more distinct`), site.el("ul", {}, rest.map(show))));
      }));

  site.trainingProblem = async (parent, suite, data, one, on) => {
    const shard = await site.load(`${suite.folder}/training-${one.shard}`);
    const found = shard.find(({ id, benchmark }) => id === one.id && benchmark === one.benchmark);
    const problem = { ...found, cells: suite.cells };
    const [seed, step] = [site.state.get("seed"), site.state.get("step")];
    const fits = ([place, at]) =>
      (!step || String(at) === step) && (!seed || String(suite.cells[place][2]) === seed);
    const cards = suite.algorithms.filter(({ label }) => on.has(label) && data.algorithms.includes(label)).map((algorithm) => {
      const steps = new Map();
      problem.rows.filter((row) => suite.cells[row[0]][1] === algorithm.label && fits(row))
        .forEach((row) => steps.set(row[1], [...(steps.get(row[1]) ?? []), row]));
      return card(algorithm, [...steps].sort(([a], [b]) => a - b), problem);
    });
    const seeds = [...new Set(problem.rows.map(([place]) => suite.cells[place][2]))].sort((a, b) => a - b);
    parent.replaceChildren();
    site.add(parent, site.problemHead(one, data.problems),
      site.el("div", { class: "toolbar" }, seeds.length > 1 &&
        site.select("Seed", [["", "all"], ...seeds.map((value) => [String(value), String(value)])], seed, (value) => {
          site.state.set({ seed: value || null });
          site.trainingProblem(parent, suite, data, one, on);
        })),
      site.el("div", { class: "cards" }, cards));
  };
}
