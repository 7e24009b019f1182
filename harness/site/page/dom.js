"use strict";
// Elements and texts. Data become text nodes and nothing else: there is no innerHTML on these pages.
site.views = {};
{
  // What cannot be seen, or turns the direction of what can: shown as JavaScript would write it.
  const hidden = new RegExp(
    "[\\p{Cc}\\p{Cf}\\p{Cs}\\p{Co}\\p{Cn}\\p{Zl}\\p{Zp}\\u034f\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f" +
      "\\u2800\\u3164\\ufe00-\\ufe0f\\uffa0\\u{e0100}-\\u{e01ef}]",
    "gu",
  );
  const escaped = (character) =>
    character === "\n" || character === "\t"
      ? character
      : Array.from({ length: character.length }, (_, place) =>
        `\\u${character.charCodeAt(place).toString(16).padStart(4, "0")}`).join("");

  site.visible = (text) => String(text).replace(hidden, escaped);

  // site.el("td", {class: "x", onclick: f}, "text", element, …): attributes, listeners, children.
  site.el = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name in element && typeof value !== "string") element[name] = value;
      else element.setAttribute(name, site.visible(value));
    }
    return site.add(element, ...children);
  };

  // Appends elements and texts, nested as they may be; null, undefined and false are none.
  site.add = (element, ...children) => {
    element.append(
      ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
        .map((child) => (child instanceof Node ? child : site.visible(child))),
    );
    return element;
  };

  // Whether nothing is compared yet, which a page that is watched then says.
  site.uncompared = (main, { tables, notes }) => {
    if (!tables.length) site.add(main, notes.map((note) => site.el("p", {}, note)));
    return !tables.length;
  };

  site.say = (text) => {
    document.getElementById("status").textContent = site.visible(text);
  };

  // A box that scrolls by itself, which the keyboard can reach.
  site.scroller = (label, ...children) =>
    site.el("div", { class: "scroller", role: "region", "aria-label": label, tabindex: "0" }, ...children);

  let made = 0;
  site.field = (label, control) => {
    made += 1;
    control.id = `field-${made}`;
    return site.el("span", { class: "field" }, site.el("label", { for: control.id }, label), control);
  };

  site.select = (label, options, value, change) =>
    site.field(
      label,
      site.el("select", { onchange: (event) => change(event.target.value) },
        options.map(([key, text]) => site.el("option", { value: key, selected: key === value }, text))),
    );

  site.check = (text, checked, change, ...before) =>
    site.el("label", { class: "check" },
      site.el("input", { type: "checkbox", checked, onchange: (event) => change(event.target.checked) }), before,
      site.el("span", {}, text));

  site.button = (text, click, attributes = {}) => site.el("button", { type: "button", onclick: click, ...attributes }, text);

  // What waits until the user pauses.
  site.later = (call, milliseconds = 150) => {
    let timer = 0;
    return (...given) => {
      clearTimeout(timer);
      timer = setTimeout(() => call(...given), milliseconds);
    };
  };
}
