"use strict";
// A page that is watched (gvpo-bench watch): it asks what is new, and draws its view again without losing the reader's place.
{
  const PERIOD = 2000;
  const QUIET = { select: 10000, other: 1000 }; // how long after the reader's last touch a view is drawn again
  let paused = false;
  let touched = 0;
  ["keydown", "input", "pointerdown", "pointermove", "wheel", "touchmove"].forEach((kind) =>
    addEventListener(kind, (event) => {
      if (kind !== "pointermove" || event.buttons) touched = Date.now();
    }, { passive: true }));

  const busy = () => {
    const inMenu = document.activeElement?.tagName === "SELECT";
    return document.hidden || getSelection()?.type === "Range" ||
      Date.now() - touched < (inMenu ? QUIET.select : QUIET.other) ||
      document.getElementById("main").hasAttribute("aria-busy");
  };

  const said = site.el("span", { id: "live", class: "live" });
  const pause = site.button("Pause", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
  }, { "aria-pressed": "false", title: "Keep the page as it is" });
  site.liveBar = site.el("p", { class: "live-bar" }, said, pause);

  // `runs` are those that the sweep was asked for, null where it did not say.
  const tell = ({ counts, runs, at, trouble }, lost = false) => {
    const parts = Object.entries(counts).map(([stage, count]) => `${count} ${stage}`);
    if (runs !== null) parts.unshift(`${runs} runs`);
    said.textContent = site.visible([
      lost && "gvpo-bench watch has ended", parts.join(", "), `as of ${at}`, trouble && `not compared: ${trouble}`,
    ].filter(Boolean).join(" · "));
    said.classList.toggle("lost", lost || trouble !== null);
  };

  // What the reader has opened, scrolled to and put the cursor in, by its place in the view.
  const placeOf = (part) => {
    const focusable = [...part.querySelectorAll("a[href], button, input, select, summary, [tabindex]")];
    const at = focusable.indexOf(document.activeElement);
    const { selectionStart: from = null, selectionEnd: to = null, type } = document.activeElement ?? {};
    return {
      open: [...part.querySelectorAll("details")].map((one) => one.open),
      scrolled: [...part.querySelectorAll(".scroller, pre")].map((one) => [one.scrollLeft, one.scrollTop]),
      focus: at, count: focusable.length, caret: type === "search" ? [from, to] : null, window: [scrollX, scrollY],
    };
  };
  const restore = (part, { open, scrolled, focus, count, caret, window: seen }) => {
    const details = [...part.querySelectorAll("details")];
    if (details.length === open.length) details.forEach((one, place) => (one.open = open[place]));
    const boxes = [...part.querySelectorAll(".scroller, pre")];
    if (boxes.length === scrolled.length) boxes.forEach((one, place) => one.scrollTo(...scrolled[place]));
    const focusable = [...part.querySelectorAll("a[href], button, input, select, summary, [tabindex]")];
    if (focus >= 0 && focusable.length === count) {
      focusable[focus].focus({ preventScroll: true });
      if (caret) focusable[focus].setSelectionRange(...caret);
    }
    scrollTo(...seen);
  };
  site.place = { of: placeOf, restore };

  site.follow = (first, renew) => {
    let known = first;
    tell(known);
    const ask = async () => {
      try {
        if (!document.hidden && !paused) known = await site.news("live");
        tell(known);
        if (!paused && known.version !== site.version && !busy()) {
          site.turnTo(known.version);
          await renew();
        }
      } catch {
        tell(known, true);
      }
      setTimeout(ask, PERIOD);
    };
    setTimeout(ask, PERIOD);
  };

  site.views.progress = {
    title: "Progress",
    live: true,
    async draw(main, suite) {
      const table = await site.load(`${suite.folder}/progress`);
      const runs = table.columns[0].texts;
      const known = new Set(suite.cells.map(([name]) => name));
      if (!runs.length) main.append(site.el("p", {}, "No run has begun."));
      else site.grid(main, table, { narrow: ["algorithm", "seed", "of"], link: (row) =>
        (known.has(runs[row]) ? site.state.link("runs", { run: runs[row] }) : null) });
    },
  };
}
