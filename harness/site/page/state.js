"use strict";
// A view and its settings stand in the address, behind the #: #/suite/view?key=value. Who has the link has the view.
{
  const read = () => {
    const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    const decode = (part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    };
    const [suite = "", view = ""] = path.split("/").map(decode);
    return { suite, view, settings: new URLSearchParams(query) };
  };

  let current = read();

  const address = ({ suite, view, settings }) => {
    const path = [suite, view].filter(Boolean).map(encodeURIComponent).join("/");
    const query = settings.toString();
    return `#/${path}${query && "?"}${query}`;
  };

  site.state = {
    get suite() {
      return current.suite;
    },
    get view() {
      return current.view;
    },
    get: (key, missing = "") => current.settings.get(key) ?? missing,
    // A list of texts; null where none was chosen.
    list: (key) => (current.settings.has(key) ? current.settings.getAll(key).filter(Boolean) : null),
    // Sets keys in the address without a new entry in the history; null and "" remove them.
    set(values) {
      for (const [key, value] of Object.entries(values)) {
        current.settings.delete(key);
        if (Array.isArray(value)) (value.length ? value : [""]).forEach((one) => current.settings.append(key, one));
        else if (value !== null && value !== "") current.settings.set(key, value);
      }
      history.replaceState(null, "", address(current));
    },
    // The address of a view; with what `settings` says.
    link: (view, settings = {}, suite = current.suite) =>
      address({ suite, view, settings: new URLSearchParams(settings) }),
    read() {
      current = read();
    },
  };
}
