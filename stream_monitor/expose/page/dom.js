// HTML from templates, numbers for people, and changing no more of the document than has changed.

class Safe {
  constructor(text) { this.text = text; }
}

function raw(value) {
  if (value instanceof Safe) return value.text;
  if (Array.isArray(value)) return value.map(raw).join("");
  if (value === null || value === undefined || value === false) return "";
  return String(value).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

// Everything put into the template is escaped, unless it is such a template itself.
export const html = (parts, ...values) =>
  new Safe(parts.reduce((text, part, i) => text + raw(values[i - 1]) + part));

export const at = (id) => document.getElementById(id);

const drawn = new WeakMap();

export function put(element, content) {
  const text = raw(content);
  if (drawn.get(element) !== text) {
    element.innerHTML = text;
    drawn.set(element, text);
  }
}

// Table rows by key: rows stay the same elements, so focus, selection and tooltips survive.
export function putRows(body, rows) {
  const there = new Map([...body.children].map((row) => [row.dataset.key, row]));
  rows.forEach(({ key, kind, name, cells, open }, i) => {
    const row = there.get(key) || document.createElement("tr");
    there.delete(key);
    Object.assign(row.dataset, { key, name });
    row.className = kind;
    cells.forEach(([type, content], j) => {
      const cell = row.children[j] || row.appendChild(document.createElement("td"));
      cell.className = type;
      if (kind === "detail") cell.colSpan = 7;
      put(cell, content);
    });
    // an attribute, for to write the button anew would take its focus
    row.querySelector(":scope > td > button")?.setAttribute("aria-expanded", open);
    if (body.children[i] !== row) body.insertBefore(row, body.children[i] || null);
  });
  for (const row of there.values()) row.remove();
}

export function putOptions(select, names, chosen) {
  put(select, names.map((name) => html`<option>${name}</option>`));
  select.value = chosen;
}

// Three significant digits.
export function number(x) {
  if (x === null || x === undefined) return "–";
  const size = Math.abs(x);
  if (x !== 0 && (size < 1e-3 || size >= 1e6)) return x.toExponential(2);
  if (size >= 1000) return Number(x.toPrecision(3)).toLocaleString("en");
  return x === 0 ? "0" : x.toPrecision(3);
}

export const percent = (x) => (x === 0 ? "0 %" : `${number(100 * x)} %`);
export const count = (x) => x.toLocaleString("en");
export const time = (text) =>
  (text ? text.replace("T", " ").replace(/(\.\d+)?Z$/, "").replace(/:00$/, "") : "–");
