"use strict";
// A page that is watched (gvpo-bench watch): it asks what is new, and draws its view again without losing the reader's place.
{
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

  // What the reader has opened, scrolled to and put the cursor in. New data may bring rows and cards: a control is found by
  // its name, all else by its place among its kind.
  const KINDS = { menus: ".menu", details: "details:not(.menu)", boxes: ".scroller, pre" };
  const of = (part, kind) => [...part.querySelectorAll(KINDS[kind])];
  const named = (one) => `${one.tagName} ${one.labels?.[0]?.textContent ?? one.ariaLabel ?? one.textContent}`;
  const placeOf = (part) => {
    const active = part.contains(document.activeElement) ? document.activeElement : null;
    return {
      menus: of(part, "menus").map((one) => one.open),
      details: of(part, "details").map((one) => one.open),
      boxes: of(part, "boxes").map((one) => [one.scrollLeft, one.scrollTop]),
      control: active && named(active),
      caret: active?.type === "search" ? [active.selectionStart, active.selectionEnd] : null,
      window: [scrollX, scrollY],
    };
  };
  const restore = (part, place) => {
    const each = (kind, set) => {
      const found = of(part, kind);
      if (found.length === place[kind].length) found.forEach((one, at) => set(one, place[kind][at]));
    };
    each("menus", (one, open) => (one.open = open));
    each("details", (one, open) => (one.open = open));
    each("boxes", (one, scrolled) => one.scrollTo(...scrolled));
    if (place.control) {
      const controls = [...part.querySelectorAll("a[href], button, input, select, summary, [tabindex]")];
      const focus = controls.find((one) => named(one) === place.control);
      focus?.focus({ preventScroll: true });
      if (place.caret) focus?.setSelectionRange(...place.caret);
    }
    scrollTo(...place.window);
  };
  site.place = { of: placeOf, restore };

  site.period = 2000; // ms between two questions

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
      setTimeout(ask, site.period);
    };
    setTimeout(ask, site.period);
  };

  site.views.progress = {
    title: "Progress",
    live: true,
    async draw(main, suite) {
      const table = await site.load(`${suite.folder}/progress`);
      site.addEscaped(table.escaped);
      const runs = table.columns[0].texts;
      const known = new Set(suite.cells.map(([name]) => name));
      if (!runs.length) main.append(site.el("p", {}, "No run has begun."));
      else site.grid(main, table, { narrow: ["algorithm", "seed", "of"], link: (row) =>
        (known.has(runs[row]) ? site.state.link("runs", { run: runs[row] }) : null) });
    },
  };
}
