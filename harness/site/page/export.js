"use strict";
// The table that is shown, as a file: {columns: [{name, texts, bold}], rows: [index]}. How a text is written in Markdown
// and LaTeX was found by gvpo-bench, which wrote it into the data: site.escaped.
{
  site.escaped = new Map();
  site.addEscaped = (escaped) => Object.entries(escaped).forEach(([text, both]) => site.escaped.set(text, both));

  const markdown = (text) => site.escaped.get(text)?.[0] ?? text;
  const latex = (text) => site.escaped.get(text)?.[1] ?? text;

  // A spreadsheet would compute a text that begins like a formula; numbers stay numbers.
  const csv = (text) => {
    const seen = site.visible(text);
    const formula = /^\s*[=+\-@＝＋－＠]/.test(seen) && !/^[+-]?\d+(\.\d*)?(e[+-]?\d+)?$/i.test(seen);
    const safe = formula ? `'${seen}` : seen;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };

  const cells = ({ columns, rows }, escape, bold) =>
    rows.map((row) =>
      columns.map(({ texts, bold: marks }) => (marks?.[row] ? bold(escape(texts[row])) : escape(texts[row]))));

  site.formats = {
    csv: (table) =>
      [table.columns.map(({ name }) => csv(name)), ...cells(table, csv, (text) => text)]
        .map((row) => `${row.join(",")}\n`).join(""),
    markdown: (table) => {
      const heading = table.columns.map(({ name }) => markdown(name));
      const rule = table.columns.map((_, place) => (place ? "---:" : "---"));
      return [heading, rule, ...cells(table, markdown, (text) => `**${text}**`)]
        .map((row) => `| ${row.join(" | ")} |\n`).join("");
    },
    latex: (table) => {
      const line = (row) => `${row.join(" & ")} \\\\\n`;
      return [
        `\\begin{tabular}{l${"r".repeat(table.columns.length - 1)}}\n\\toprule\n`,
        line(table.columns.map(({ name }) => latex(name))), "\\midrule\n",
        ...cells(table, latex, (text) => `\\textbf{${text}}`).map(line), "\\bottomrule\n\\end{tabular}\n",
      ].join("");
    },
  };

  site.download = (name, text, type = "text/plain") => {
    const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
    const link = site.el("a", { href: url, download: name.replace(/[^A-Za-z0-9._-]+/g, "_") });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    site.say(`saved: ${link.download}`);
  };

  // A button a format, for the table that `table()` gives when it is pressed.
  site.exports = (what, table) =>
    site.el("span", { class: "exports", role: "group", "aria-label": "This table as a file" },
      [["csv", "CSV", "csv"], ["markdown", "Markdown", "md"], ["latex", "LaTeX", "tex"]].map(([format, text, ending]) =>
        site.button(text, () =>
          site.download(`${site.state.suite}-${what}.${ending}`, site.formats[format](table()), "text/plain"),
        { title: `This table, as it is shown, as ${text}` })));
}
