// The pictures, as SVG.

import { html, number, percent, time } from "./dom.js";

const px = (x) => x.toFixed(1);

// A value on its way to the threshold, which stands in the middle.
export function gauge(v) {
  const kind = v.alert === null ? "mute" : v.alert ? "bad" : "good";
  const limited = v.upper !== null || v.lower !== null;
  const filled = Math.min(v.ratio / 2, 1) * 90;
  return html`<svg class="gauge" width="90" height="12" role="img"
    aria-label="${limited ? `${number(v.ratio)} times the threshold` : "no threshold"}">
    <rect class="track" y="2" width="90" height="8" rx="2"/>
    ${limited && html`<rect class="fill-${kind}" y="2" width="${px(filled)}" height="8" rx="2"/>
    <line class="mark" x1="45" y1="0" x2="45" y2="12"/>`}</svg>`;
}

// Values of the last windows with their thresholds. Points: [value, lower, upper, alert] or null.
export function course(points, history, width, height, labelled = false) {
  const known = points.map((p, i) => p && p[0] !== null && { at: i, v: p[0], lower: p[1], upper: p[2], alert: p[3] })
    .filter(Boolean);
  if (!known.length) return html`<span class="mute">–</span>`;
  const left = labelled ? 46 : 4, bottom = labelled ? 18 : 3;
  const top = 1.12 * Math.max(...known.map((p) => Math.max(p.v, p.upper || 0))) || 1;
  const x = (i) => left + (i / Math.max(points.length - 1, 1)) * (width - left - 5);
  const y = (v) => height - bottom - (v / top) * (height - bottom - 4);
  const line = (key) => known.filter((p) => p[key] !== null)
    .map((p) => `${px(x(p.at))},${px(y(p[key]))}`).join(" ");
  const newest = known[known.length - 1];
  const hits = known.filter((p) => p.alert);
  const dots = hits.map((p) => html`<circle class="hit" cx="${px(x(p.at))}" cy="${px(y(p.v))}" r="${labelled ? 3.5 : 2}"/>`);
  const tips = labelled && known.map((p) => html`<rect class="tip" x="${px(x(p.at) - 4)}" y="0" width="8" height="${height - bottom}">
    <title>to ${time(history[p.at].end)}: ${number(p.v)}${p.upper === null ? "" : `, threshold ${number(p.upper)}`}</title></rect>`);
  const axis = labelled && html`
    <line class="base" x1="${left}" y1="${height - bottom}" x2="${width}" y2="${height - bottom}"/>
    <text class="axis" x="${left - 6}" y="${height - bottom}" text-anchor="end">0</text>
    <text class="axis" x="${left - 6}" y="${px(y(newest.v) + 3)}" text-anchor="end">${number(newest.v)}</text>
    <text class="axis" x="${left}" y="${height - 3}">${time(history[0].end)}</text>
    <text class="axis" x="${width}" y="${height - 3}" text-anchor="end">${time(history[history.length - 1].end)}</text>`;
  return html`<svg width="${width}" height="${height}" role="img"
    aria-label="last ${known.length} windows: newest ${number(newest.v)}, ${hits.length} with an alert">
    ${axis}<polyline class="limit" points="${line("lower")}"/><polyline class="limit" points="${line("upper")}"/>
    ${known.length > 1 && html`<polyline class="course" points="${line("v")}"/>`}
    <circle class="newest" cx="${px(x(newest.at))}" cy="${px(y(newest.v))}" r="${labelled ? 3 : 2}"/>${dots}${tips}</svg>`;
}

// Estimated and realised values of the last windows, the estimate's band, and thresholds.
// ``ages`` are courses of realised values at smaller maturities, with the share of labels in each.
export function performance(estimated, realized, history, width, height, ages = []) {
  const lines = { estimated: estimated ? estimated.course : [], realized: realized ? realized.course : [] };
  const judged = (estimated || realized).course;
  const all = [...lines.estimated, ...lines.realized].filter((p) => p && p[0] !== null)
    .flatMap((p) => [p[0], p[1], p[2], p[4], p[5]]).filter((v) => v !== null && v !== undefined);
  if (!all.length) return html`<span class="mute">no window has closed yet</span>`;
  const low = Math.min(...all), high = Math.max(...all), pad = (high - low) * 0.08 || Math.abs(high) * 0.01 || 1;
  const left = 52, bottom = 18;
  const x = (i) => left + (i / Math.max(judged.length - 1, 1)) * (width - left - 6);
  const y = (v) => height - bottom - ((v - low + pad) / (high - low + 2 * pad)) * (height - bottom - 4);
  const points = (course, k) => course.map((p, i) => p && p[k] !== null && `${px(x(i))},${px(y(p[k]))}`).filter(Boolean);
  const band = [...points(lines.estimated, 4), ...points(lines.estimated, 5).reverse()];
  const draw = (name) => html`<polyline class="${name}" points="${points(lines[name], 0).join(" ")}"/>
    ${lines[name].map((p, i) => p && p[0] !== null && html`<circle class="${p[3] ? "hit" : `dot-${name}`}"
      cx="${px(x(i))}" cy="${px(y(p[0]))}" r="${p[3] ? 3.5 : 1.8}"/>`)}`;
  const tips = judged.map((_, i) => html`<rect class="tip" x="${px(x(i) - 4)}" y="0" width="8" height="${height - bottom}"><title>to ${
    time(history[i].end)}: ${Object.entries(lines).filter(([, c]) => c[i] && c[i][0] !== null)
    .map(([name, c]) => `${name} ${number(c[i][0])}`).join(", ")}</title></rect>`);
  return html`<svg width="${width}" height="${height}" role="img" aria-label="estimated and realised ${(estimated || realized).metric}">
    <line class="base" x1="${left}" y1="${height - bottom}" x2="${width}" y2="${height - bottom}"/>
    <text class="axis" x="${left - 6}" y="${px(y(low) + 3)}" text-anchor="end">${number(low)}</text>
    <text class="axis" x="${left - 6}" y="${px(y(high) + 3)}" text-anchor="end">${number(high)}</text>
    <text class="axis" x="${left}" y="${height - 3}">${time(history[0].end)}</text>
    <text class="axis" x="${width}" y="${height - 3}" text-anchor="end">${time(history[history.length - 1].end)}</text>
    ${band.length > 0 && html`<polygon class="band" points="${band.join(" ")}"/>`}
    <polyline class="limit" points="${points(judged, 1).join(" ")}"/><polyline class="limit" points="${points(judged, 2).join(" ")}"/>
    ${ages.slice(0, -1).map((a) => html`<polyline class="early" points="${points(a.course, 0).join(" ")}"><title>realised after ${a.maturity}</title></polyline>`)}
    ${ages.map((a, k) => a.share.map((s, i) => s !== null && html`<rect class="share-${k === ages.length - 1 ? "all" : "early"}" x="${px(x(i) - 2)}"
      y="${px(height - bottom - 12 * s)}" width="4" height="${px(12 * s)}"><title>${percent(s)} of the labels after ${a.maturity}</title></rect>`))}
    ${draw("realized")}${draw("estimated")}${tips}</svg>`;
}

// From the reference's value to the realised one: what the inputs explain, what a changed world costs.
export function waterfall(e, width, height) {
  const middle = e.reference + e.inputs[0];
  const steps = [["reference", e.reference, null], ["inputs", middle, e.inputs[1]], ["world", e.realized, e.world[1]]];
  const ends = steps.flatMap(([, v, error]) => [v - 2 * (error || 0), v + 2 * (error || 0)]);
  const low = Math.min(...ends), high = Math.max(...ends), pad = (high - low) * 0.1 || Math.abs(high) * 0.01 || 1;
  const left = 74, y = (k) => 8 + k * ((height - 14) / 3);
  const x = (v) => left + ((v - low + pad) / (high - low + 2 * pad)) * (width - left - 60);
  const bar = (from, to, k, error) => html`<rect class="${k === 0 ? "reference" : to < from ? "loss" : "gain"}" x="${px(Math.min(x(from), x(to)))}"
    y="${px(y(k))}" width="${px(Math.max(Math.abs(x(to) - x(from)), 2))}" height="16" rx="2"/>${error && html`<line class="error"
    x1="${px(x(to - 1.96 * error))}" x2="${px(x(to + 1.96 * error))}" y1="${px(y(k) + 8)}" y2="${px(y(k) + 8)}"/>`}`;
  const text = (k, name, value) => html`<text class="axis" x="${left - 8}" y="${px(y(k) + 12)}" text-anchor="end">${name}</text>
    <text class="axis" x="${width - 4}" y="${px(y(k) + 12)}" text-anchor="end">${value}</text>`;
  const signed = (v) => `${v > 0 ? "+" : ""}${number(v)}`;
  return html`<svg width="${width}" height="${height}" role="img" aria-label="${e.words}">
    ${bar(low - pad, e.reference, 0)}${bar(e.reference, middle, 1, e.inputs[1])}${bar(middle, e.realized, 2, e.world[1])}
    ${text(0, "reference", number(e.reference))}${text(1, "inputs", signed(e.inputs[0]))}${text(2, "world", signed(e.world[0]))}</svg>`;
}

// Shares of the values: the reference behind, the window before it, over the same bars.
export function histogram(h, window, continuous, width, height, labelled = false) {
  const reference = h.shares.reference, current = h.shares[window] || [];
  const top = Math.max(...reference, ...current, 1e-9) * 1.04;
  const step = width / h.labels.length;
  const y = (share) => height - (share / top) * height;
  const bar = (kind, part) => (share, i) => share > 0 && html`<rect class="${kind}"
    x="${px(i * step + (step * (1 - part)) / 2)}" y="${px(y(share))}" width="${px(step * part)}" height="${px(height - y(share))}"/>`;
  const steps = (shares) => shares.map((s, i) => `${px(i * step)},${px(y(s))} ${px((i + 1) * step)},${px(y(s))}`).join(" ");
  const area = (kind, shares) => shares.length > 0 &&
    html`<polygon class="${kind}" points="0,${height} ${steps(shares)} ${width},${height}"/>`;
  const tips = labelled && h.labels.map((name, i) => html`<rect class="tip" x="${px(i * step)}" y="0" width="${px(step)}" height="${height}">
    <title>${name}: reference ${percent(reference[i])}${current.length ? `, now ${percent(current[i])}` : ""}</title></rect>`);
  const names = labelled && (continuous ? ends(h, width, height, step) : every(h, height, step));
  return html`<svg width="${width}" height="${height + (labelled ? 18 : 0)}" role="img" aria-label="${summary(h, current)}">
    ${continuous ? [area("reference", reference), area("current outlined", current)]
      : [reference.map(bar("reference", 0.9)), current.map(bar("current", 0.5))]}
    <line class="base" x1="0" y1="${height}" x2="${width}" y2="${height}"/>${tips}${names}</svg>`;
}

const ends = (h, width, height, step) => html`
  <text class="axis" x="${px(step)}" y="${height + 13}">${h.labels[0].slice(2)}</text>
  <text class="axis" x="${px(width - step)}" y="${height + 13}" text-anchor="end">${h.labels[h.labels.length - 1].slice(2)}</text>`;

const every = (h, height, step) => h.labels.map((name, i) => html`<text class="axis" text-anchor="middle"
  x="${px((i + 0.5) * step)}" y="${height + 13}">${name.length * 6 < step ? name : `${name.slice(0, Math.floor(step / 6) - 1)}…`}</text>`);

// The bar that differs most, in words.
function summary(h, current) {
  if (!current.length) return "histogram of the reference";
  const differences = current.map((s, i) => Math.abs(s - h.shares.reference[i]));
  const i = differences.indexOf(Math.max(...differences));
  return `histograms of reference and window; they differ most at ${h.labels[i]}: ${percent(h.shares.reference[i])} and ${percent(current[i])}`;
}
