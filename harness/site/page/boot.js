"use strict";
// Loads the other scripts, and data when they are asked for. The policy of index.html names the hash of this text.
const site = {};
window.site = site;

site.script = (path) =>
  new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = path;
    element.async = false;
    element.onload = () => resolve(element.remove());
    element.onerror = () => reject(new Error(`${path} is missing or cannot be read`));
    document.head.append(element);
  });

// What data scripts hand over, by name: base64 of compressed JSON.
const packed = new Map();
const loaded = new Map();
site.put = (name, text) => packed.set(name, text);

site.load = (name) => {
  if (!loaded.has(name)) loaded.set(name, unpack(name, site.version));
  return loaded.get(name);
};

// Of a page that is watched: which version its data are of. Those of others are forgotten.
site.version = "";
site.turnTo = (version) => {
  site.version = version;
  loaded.clear();
};

// Data that are asked for again and again.
site.news = (name) => unpack(name, String(Date.now()));

async function unpack(name, version) {
  await site.script(`data/${name}.js${version && `?v=${version}`}`);
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser cannot decompress the data; take one from 2023 or later");
  }
  const bytes = Uint8Array.from(atob(packed.get(name)), (character) => character.charCodeAt(0));
  packed.delete(name);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

site.fail = (error) => {
  const main = document.getElementById("main");
  const text = document.createElement("p");
  text.setAttribute("role", "alert");
  text.textContent = `This page cannot be shown: ${error.message}`;
  main.replaceChildren(text);
  main.removeAttribute("aria-busy");
};

Promise.all(
  ["vendor/datatables", "page/dom", "page/state", "page/export", "page/grid", "page/chooser", "page/live",
    "page/leaderboard", "page/pairs", "page/curves", "page/runs", "page/problems", "page/responses", "page/training",
    "page/main"].map((name) =>
    site.script(`${name}.js`),
  ),
)
  .then(() => site.start())
  .catch(site.fail);
