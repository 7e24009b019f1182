"use strict";
// One problem: the responses of all chosen algorithms side by side, equal ones together.
{
  const MARKS = { correct: "✓", wrong: "✗", no_answer: "∅", timeout: "!", error: "!", given: "→" };
  const FEW = 4;

  const verdict = (name) =>
    site.el("span", { class: `verdict ${name === "correct" ? "right" : "off"}` },
      `${MARKS[name] ?? "?"} ${name.replaceAll("_", " ")}`);

  // The samples of one algorithm that gave the same text: [{text, samples, seeds, values}], the most frequent first;
  // `values` are lists of what each row has between text and samples.
  site.together = (rows, cells) => {
    const found = new Map();
    rows.forEach(([place, text, ...rest]) => {
      const samples = rest.pop();
      if (!found.has(text)) found.set(text, { text, samples: 0, seeds: new Map(), values: rest.map(() => []) });
      const one = found.get(text);
      const seed = cells[place][2];
      one.samples += samples.length;
      one.seeds.set(seed, [...(one.seeds.get(seed) ?? []), ...samples]);
      rest.forEach((value, at) => value !== null && one.values[at].push(value));
    });
    return [...found.values()].sort((a, b) => b.samples - a.samples);
  };

  site.between = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return low === high ? `${low}` : `${low} to ${high}`;
  };

  // One text: `samples` of `seeds` gave it; `more` is what else is known of them.
  site.response = ({ samples, seeds }, { shown, answer, verdict: judged, tokens, truncated, more }) => {
    const which = [...seeds].filter(([seed]) => seed !== null)
      .map(([seed, found]) => `seed ${seed}: sample${found.length > 1 ? "s" : ""} ${found.join(", ")}`);
    return site.el("li", { class: "response" },
      site.el("p", { class: "head" }, verdict(judged ?? "given"), site.el("b", {}, `${samples}×`),
        site.el("span", {}, "answer ", answer ? site.el("code", {}, answer) : "none")),
      site.el("pre", { tabindex: "0", "aria-label": "response" }, shown === "" ? "(empty)" : shown),
      site.el("p", { class: "fine" },
        [`${tokens} tokens`, truncated && "cut off at the limit", ...more].filter(Boolean).join(", ")),
      which.length > 0 && site.el("details", { class: "fine" },
        site.el("summary", {}, seeds.size === 1 ? `seed ${[...seeds.keys()][0]}` : `${seeds.size} seeds`),
        site.el("p", {}, which.join("; "))));
  };

  // How many of its samples each seed has right, as a text and as bars.
  const bySeed = (counts, counted) => {
    const right = counted.indexOf("correct");
    const bars = counts.map(([seed, row]) => {
      const all = row.slice(0, 4).reduce((sum, count) => sum + count, 0);
      const bar = site.el("i", {});
      bar.style.height = `${all ? (100 * row[right]) / all : 0}%`;
      return site.el("span", { title: `seed ${seed}: ${row[right]} of ${all}` }, bar);
    });
    return site.el("span", { class: "seeds", "aria-hidden": "true" }, bars);
  };

  const card = (algorithm, own, problem, suite) => {
    const total = own.counts.reduce((sum, [, row]) => sum.map((count, place) => count + row[place]), suite.counted.map(() => 0));
    const samples = total.slice(0, 4).reduce((sum, count) => sum + count, 0);
    const others = suite.counted.map((name, place) => [name, total[place]]).slice(1).filter(([, count]) => count)
      .map(([name, count]) => `${count} ${name.replaceAll("_", " ")}`);
    const show = (one) => {
      const [shown, answer, judged, finish, tokens] = problem.texts[one.text];
      const [kl, logp] = one.values;
      return site.response(one, { shown, answer, verdict: judged, tokens, truncated: finish === "length",
        more: [logp.length > 0 && `log-prob ${site.between(logp)} nats`, kl.length > 0 && `KL ${site.between(kl)} nats`] });
    };
    const rest = own.responses.slice(FEW);
    return site.el("article", { class: "card", "aria-label": algorithm.name },
      site.el("h3", {}, algorithm.name),
      site.el("p", { class: "head" }, `${total[0]} of ${samples} correct`, own.counts.length > 1 && bySeed(own.counts, suite.counted)),
      others.length > 0 && site.el("p", { class: "fine" }, others.join(", ")),
      own.responses.length ? site.el("ul", {}, own.responses.slice(0, FEW).map(show)) : site.el("p", { class: "fine" }, "No response of this seed is held here."),
      rest.length > 0 && site.el("details", { class: "fine" },
        site.el("summary", {}, `${rest.length} more distinct response${rest.length > 1 ? "s" : ""}`),
        site.el("ul", {}, rest.map(show))));
  };

  const around = (problem, list) => {
    const at = list.indexOf(problem);
    const link = (other, text) => {
      if (!other) return site.el("span", { class: "button off" }, text);
      return site.el("a", { class: "button", href: site.problemLink(other) }, text);
    };
    const settings = new URLSearchParams(location.hash.split("?")[1] ?? "");
    settings.delete("problem");
    return site.el("nav", { class: "toolbar", "aria-label": "Problems" },
      site.el("a", { class: "button", href: site.state.link("problems", settings) }, "All problems"),
      link(list[at - 1], "Previous"), link(at >= 0 ? list[at + 1] : list[0], "Next"),
      at >= 0 && site.el("span", { class: "count" }, `${at + 1} of ${list.length}`));
  };

  // The way through the `list`, and what `one` of it asks.
  site.problemHead = (one, list) => [
    around(one, list), site.el("h2", {}, one.id),
    site.el("dl", { class: "problem" },
      site.el("dt", {}, "benchmark"), site.el("dd", {}, one.benchmark),
      one.question !== null && [site.el("dt", {}, "question"), site.el("dd", {}, site.el("pre", {}, one.question))],
      one.gold !== null && [site.el("dt", {}, "gold answer"), site.el("dd", {}, site.el("code", {}, one.gold))]),
  ];

  // Shows `one`, a row of the list of problems; `list` are the rows that the reader goes through.
  site.responses = async (parent, suite, data, one, list, on) => {
    const shard = await site.load(`${suite.folder}/responses-${one.shard}`);
    const problem = shard.find(({ id, benchmark }) => id === one.id && benchmark === one.benchmark);
    const cells = data.cells.map((place) => suite.cells[place]);
    const seeds = [...new Set(cells.map(([, , seed]) => seed).filter((seed) => seed !== null))].sort((a, b) => a - b);
    const only = site.state.get("seed");
    const fits = ([, , seed]) => only === "" || seed === null || String(seed) === only;
    const algorithms = suite.algorithms.filter(({ label }) => on.has(label) && data.algorithms.includes(label));
    const cards = algorithms.map((algorithm) => {
      const places = cells.flatMap((cell, place) => (cell[1] === algorithm.label && fits(cell) ? [place] : []));
      const rows = problem.rows.filter(([place]) => places.includes(place));
      const counts = places.map((place) => [cells[place][2], problem.counts[place]]);
      return card(algorithm, { responses: site.together(rows, cells), counts }, problem, suite);
    });
    parent.replaceChildren();
    site.add(parent,
      site.problemHead(one, list),
      site.el("div", { class: "toolbar" },
        seeds.length > 1 && site.select("Seed", [["", "all"], ...seeds.map((seed) => [String(seed), String(seed)])], only,
          (value) => {
            site.state.set({ seed: value || null });
            site.responses(parent, suite, data, one, list, on);
          })),
      site.el("div", { class: "cards" }, cards));
  };
}
