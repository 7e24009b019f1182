"use strict";
// Which view is shown, and the way from one to another.
{
  site.libraries = {
    plotly: () => (window.Plotly ? Promise.resolve() : (waiting ??= site.script("vendor/plotly.js"))),
  };
  let waiting = null;
  let suites = [];
  let live = null;

  const link = (text, href, current) =>
    site.el("a", { href, "aria-current": current ? "page" : null, class: current ? "current" : null }, text);

  const navigation = () => {
    const { suite, view } = site.state;
    document.getElementById("suites").replaceChildren(
      ...suites.map(({ suite: name }) => link(name, site.state.link(name === suite ? view : "leaderboard", {}, name), name === suite)));
    document.getElementById("views").replaceChildren(
      ...(suite ? Object.entries(site.views).filter(([, one]) => live || !one.live).map(([key, { title }]) => link(title, site.state.link(key), key === view)) : []),
      suite ? site.button("Copy link", copy, { title: "A link that restores this view" }) : "");
    if (live && !site.liveBar.isConnected) document.querySelector("header").append(site.liveBar);
    document.querySelectorAll("header .current").forEach((one) => one.scrollIntoView({ block: "nearest", inline: "nearest" }));
  };

  const copy = async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      site.say("The link to this view is copied.");
    } catch {
      site.say(`The link to this view: ${location.href}`);
    }
  };

  const home = (main) => {
    main.append(
      site.el("h1", {}, "Results of gvpo-bench"),
      site.el("p", {}, "Each suite compares algorithms under one model, budget and evaluation; suites are not compared ",
        "with each other."),
      site.el("ul", { class: "suites" }, suites.map((one) =>
        site.el("li", { class: "card" }, site.el("h2", {}, link(one.suite, site.state.link("leaderboard", {}, one.suite))),
          site.el("p", {}, `${one.algorithms} algorithms, ${one.seeds} seeds, ${one.runs} runs`,
            one.failed > 0 && `, ${one.failed} failed`),
          site.el("p", { class: "fine" }, `${one.problems} problems of ${one.benchmarks.join(", ")}`,
            one.date && `; ${one.date}`)))));
  };

  // Takes parts of the page away, and what Plotly would keep of them.
  const clear = (...parts) => parts.forEach((part) => {
    part.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.purge(plot));
    part.remove();
  });

  // Draws the view that the address names: `moved` where the reader has gone there, `again` where its data are new. Then
  // the old one stays until the new one is whole, and the reader's place in it is kept.
  site.show = async ({ moved = false, again = false } = {}) => {
    const main = document.getElementById("main");
    const { suite: name, view } = site.state;
    const old = again ? main.querySelector(".view") : null;
    site.onTheme = null;
    main.setAttribute("aria-busy", "true");
    if (!old) {
      clear(...main.children);
      site.say("");
    }
    navigation();
    const known = suites.find(({ suite }) => suite === name);
    const part = site.el("div", { class: `view ${view}${old ? " coming" : ""}` });
    main.append(part);
    if (!name) home(part);
    else if (!known || !(view in site.views)) {
      part.append(site.el("h1", {}, "Not found"), site.el("p", {}, `There is no ${known ? "view" : "suite"} called `,
        site.el("code", {}, known ? view : name), "."));
    } else {
      const { folder } = known;
      const suite = { ...(await site.load(`${folder}/overview`)), folder };
      site.addEscaped(suite.escaped);
      part.append(site.el("h1", {}, `${suite.suite}: ${site.views[view].title.toLowerCase()}`));
      await site.views[view].draw(part, suite);
    }
    if (!part.isConnected) return; // the reader has gone on
    if (old) {
      const place = site.place.of(old);
      clear(old);
      part.classList.remove("coming");
      site.place.restore(part, place);
    }
    document.title = `${[name, known && site.views[view]?.title].filter(Boolean).map(site.visible).join(" · ") || "Results"} – gvpo-bench`;
    main.removeAttribute("aria-busy");
    if (moved) main.focus({ preventScroll: true });
  };

  site.start = async () => {
    const load = async () => ({ suites, live = null } = await site.load("site"));
    await load();
    const first = live ? "progress" : "leaderboard";
    const go = () => {
      site.state.read();
      if (site.state.suite && !site.state.view) location.replace(site.state.link(first));
    };
    if (!site.state.suite && suites.length === 1) location.replace(site.state.link(first, {}, suites[0].suite));
    go();
    window.addEventListener("hashchange", () => {
      go();
      window.scrollTo(0, 0);
      site.show({ moved: true }).catch(site.fail);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => site.onTheme?.());
    if (live) site.turnTo(live.version);
    await site.show();
    if (live) {
      site.follow(live, async () => {
        await load();
        await site.show({ again: true });
      });
    }
  };
}
