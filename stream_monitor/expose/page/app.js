"use strict";
// Fetches /api/v1/status every two seconds and draws it. No library, nothing from elsewhere.

const PERIOD = 2000;
const at = (id) => document.getElementById(id);
const escape = (text) =>
  String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const chosen = new URLSearchParams(location.hash.slice(1));
let status = null;
let drawn = {};

function number(x) {
  if (x === null || x === undefined) return "–";
  if (x !== 0 && (Math.abs(x) < 1e-3 || Math.abs(x) >= 1e6)) return x.toExponential(1);
  return Number(x.toPrecision(3)).toString();
}
const percent = (x) => (x === 0 ? "0" : `${number(100 * x)} %`);
const count = (x) => x.toLocaleString("en");
const time = (text) => (text ? text.replace("T", " ").replace(/(:\d\d)?(\.\d+)?Z$/, "") : "–");

// Only touches the document where something changed, so nothing flickers and selections stay.
function put(id, html) {
  if (drawn[id] !== html) {
    at(id).innerHTML = html;
    drawn[id] = html;
  }
}

function options(id, names, selected) {
  put(id, names.map((n) =>
    `<option value="${escape(n)}"${n === selected ? " selected" : ""}>${escape(n)}</option>`).join(""));
  at(id).value = selected;
}

function keep(key, value) {
  chosen.set(key, value);
  history.replaceState(null, "", `#${chosen}`);
  draw();
}

function pick(key, names, fallback) {
  const wish = chosen.get(key);
  return names.includes(wish) ? wish : names.includes(fallback) ? fallback : names[0];
}

function serviceLine(s) {
  const rejected = Object.entries(s.rejected);
  const total = rejected.reduce((sum, [, n]) => sum + n, 0);
  const parts = [
    ["state", s.ready ? (s.finished ? "input read to its end" : "reading") : "starting", !s.ready],
    ["watermark", time(s.watermark)],
    ["events", count(s.accepted)],
    ["late", count(s.late + s.expired), s.late + s.expired > 0],
    ["rejected", rejected.length
      ? `${count(total)} (${rejected.map(([r, n]) => `${r} ${count(n)}`).join(", ")})` : "0", total > 0],
    ["unread", `${count(s.lag)} in ${s.partitions} partition${s.partitions === 1 ? "" : "s"}`],
    ["commit failures", count(s.commit_failures), s.commit_failures > 0],
    ["sees", s.single_instance ? "this instance only" : "the whole group"],
  ];
  put("source", `${escape(s.source)} · version ${escape(s.version)}`);
  put("service", parts.map(([name, value, bad]) =>
    `<div><dt>${name}</dt><dd${bad ? ' class="bad"' : ""}>${escape(value)}</dd></div>`).join(""));
}

function alertTable(alerts) {
  if (!alerts.length) {
    put("alerts", '<p class="quiet">Nothing: the newest closed windows are as the reference.</p>');
    return;
  }
  const groups = new Map();
  for (const a of alerts) {
    const key = [a.model, a.version, a.window, a.feature].join("/");
    groups.set(key, [...(groups.get(key) || []), a]);
  }
  const beyond = (a) => (a.upper_threshold && a.value > a.upper_threshold ? a.value / a.upper_threshold : 1);
  const sorted = [...groups.values()].map((g) => g.sort((a, b) => beyond(b) - beyond(a)));
  sorted.sort((a, b) => beyond(b[0]) - beyond(a[0]));
  const rows = sorted.map(([a, ...others]) => `<tr>
    <td class="bad"><strong>${escape(a.feature || "whole row")}</strong></td>
    <td>${escape(a.metric)} <strong>${number(a.value)}</strong></td>
    <td class="number">${a.lower_threshold === null ? "" : `${number(a.lower_threshold)} … `}${number(a.upper_threshold)}</td>
    <td class="kind">${others.map((o) => escape(o.metric)).join(", ")}</td>
    <td class="number">${count(a.rows)}</td><td>${escape(a.model)} ${escape(a.version)}</td>
    <td>${escape(a.window)} to ${time(a.window_end)}</td><td>${time(a.since)}</td></tr>`);
  put("alerts", `<table><thead><tr><th>feature</th><th>furthest beyond</th>
    <th class="number">threshold</th><th>also</th><th class="number">rows</th><th>model</th>
    <th>window</th><th>since</th></tr></thead><tbody>${rows.join("")}</tbody></table>`);
}

function verdict(values) {
  const judged = values.filter((v) => v.alert !== null);
  if (judged.some((v) => v.alert)) return ["drift", "bad"];
  return judged.length ? ["fine", "good"] : ["not judged", "mute"];
}

// How far a value has gone on its way to the threshold; 1 is the threshold.
const ratio = (v) => (v && v.value !== null && v.upper ? v.value / v.upper : 0);
const worst = (values) => Math.max(0, ...values.map((v) => (v.alert ? 1e6 : 0) + ratio(v)));

function gauge(v) {
  if (!v || v.value === null) return "–";
  const part = Math.min(ratio(v) / 2, 1) * 90;
  const fill = v.alert === null ? "mute" : v.alert ? "bad" : "good";
  const limit = v.upper === null ? "" : '<line class="limit" x1="45" y1="0" x2="45" y2="10"/>';
  return `${number(v.value)} <svg width="90" height="10" role="img"
    aria-label="${number(v.value)}, threshold ${number(v.upper)}"><rect class="track" width="90" height="10" rx="2"/>
    <rect class="fill-${fill}" width="${part.toFixed(1)}" height="10" rx="2"/>${limit}</svg>`;
}

function course(points, width, height) {
  const known = (points || []).filter((p) => p[1] !== null);
  if (known.length < 2) return '<span class="mute">–</span>';
  const top = 1.1 * Math.max(...known.map((p) => Math.max(p[1], p[2] || 0))) || 1;
  const first = known[0][0], last = known[known.length - 1][0];
  const x = (i) => 3 + ((i - first) / Math.max(last - first, 1)) * (width - 6);
  const y = (v) => height - 2 - (v / top) * (height - 4);
  const line = (key) => known.filter((p) => p[key] !== null)
    .map((p) => `${x(p[0]).toFixed(1)},${y(p[key]).toFixed(1)}`).join(" ");
  const hits = known.filter((p) => p[3]).map((p) =>
    `<circle class="hit" cx="${x(p[0]).toFixed(1)}" cy="${y(p[1]).toFixed(1)}" r="2"/>`).join("");
  return `<svg width="${width}" height="${height}" role="img"
    aria-label="last ${known.length} windows, newest ${number(known[known.length - 1][1])}">
    <polyline class="limit" points="${line(2)}"/><polyline class="course" points="${line(1)}"/>${hits}</svg>`;
}

function histogram(h, width, height, labelled) {
  const top = Math.max(...h.reference, ...h.current, 1e-9);
  const step = width / h.labels.length;
  const bar = (share, i, kind) => {
    const tall = (share / top) * height;
    return `<rect class="${kind}" x="${(i * step).toFixed(2)}" y="${(height - tall).toFixed(2)}"
      width="${Math.max(step - 0.6, 0.6).toFixed(2)}" height="${tall.toFixed(2)}"/>`;
  };
  const title = (i) => `<rect fill="transparent" x="${(i * step).toFixed(2)}" y="0"
    width="${step.toFixed(2)}" height="${height}"><title>${escape(h.labels[i])}
reference ${percent(h.reference[i])}${h.current.length ? `, now ${percent(h.current[i])}` : ""}</title></rect>`;
  const names = labelled ? `<text class="axis" x="0" y="${height + 12}">${escape(h.labels[0])}</text>
    <text class="axis" x="${width}" y="${height + 12}" text-anchor="end">${escape(h.labels[h.labels.length - 1])}</text>` : "";
  return `<svg width="${width}" height="${height + (labelled ? 16 : 0)}" role="img" aria-label="histograms of reference and current window">
    ${h.reference.map((s, i) => bar(s, i, "reference")).join("")}
    ${h.current.map((s, i) => bar(s, i, "current")).join("")}
    ${h.labels.map((_, i) => title(i)).join("")}${names}</svg>`;
}

function detail(name, feature, values, courses) {
  const rows = values.map((v) => `<tr class="${v.alert ? "bad" : ""}"><td>${escape(v.metric)}</td>
    <td class="number">${number(v.value)}</td>
    <td class="number">${v.lower === null ? "" : `${number(v.lower)} … `}${number(v.upper)}</td>
    <td class="number">${number(v.p_value)}</td><td>${course(courses[`${name}/${v.metric}`], 220, 34)}</td></tr>`);
  return `<tr class="detail"><td colspan="7"><div class="detail-grid"><figure>
    ${histogram(feature.histogram, 420, 150, true)}
    <figcaption>shares of the values: grey the reference, blue the newest closed window</figcaption></figure>
    <table><thead><tr><th>value of</th><th class="number">value</th><th class="number">threshold</th>
    <th class="number">p-value</th><th>last windows</th></tr></thead><tbody>${rows.join("")}</tbody></table>
    </div></td></tr>`;
}

function featureTable(view, metric) {
  const shown = view.closed || view.filling;
  const values = shown ? shown.values : [];
  const of = (name) => values.filter((v) => v.feature === name && v.metric !== "rows_count");
  const find = at("find").value.toLowerCase();
  const names = Object.keys(view.features).filter((n) => n.toLowerCase().includes(find));
  names.sort((a, b) => worst(of(b)) - worst(of(a)) || (a < b ? -1 : 1));
  const rows = names.map((name) => {
    const feature = view.features[name], own = of(name);
    const main = own.find((v) => v.metric === metric);
    const [word, kind] = verdict(own);
    const lost = feature.histogram.missing, wrong = feature.histogram.wrong_type;
    const unseen = own.find((v) => v.metric === "unseen_values" || v.metric === "numerical_range");
    const flag = (m) => (own.some((v) => v.metric === m && v.alert) ? ' class="bad"' : "");
    const open = chosen.get("feature") === name;
    return `<tr class="feature" tabindex="0" data-name="${escape(name)}" aria-expanded="${open}">
      <td><strong>${escape(name)}</strong><br><span class="kind">${feature.role === "feature" ? "" : `${feature.role}, `}${feature.kind}</span></td>
      <td><span class="chip ${kind}">${word}</span></td>
      <td class="number">${gauge(main)}</td>
      <td>${course(view.history.courses[`${name}/${metric}`], 140, 30)}</td>
      <td>${histogram(feature.histogram, 200, 34, false)}</td>
      <td><span${flag("missing_values")}>missing ${percent(lost)}</span><br><span${flag("wrong_type")}>wrong type ${percent(wrong)}</span></td>
      <td>${unseen ? `<span${flag(unseen.metric)}>${unseen.metric === "unseen_values" ? "unseen" : "out of range"} ${percent(unseen.value || 0)}</span>` : ""}</td>
      </tr>${open ? detail(name, feature, own, view.history.courses) : ""}`;
  });
  put("features", `<table><thead><tr><th>feature</th><th>verdict</th><th class="number">${escape(metric)}</th>
    <th>last windows</th><th>reference and now</th><th>quality</th><th></th></tr></thead>
    <tbody>${rows.join("")}</tbody></table>`);
}

function stateLine(view, watermark) {
  const parts = [];
  if (view.closed) {
    parts.push(`newest closed: no. ${view.closed.index}, ${time(view.closed.start)} – ${time(view.closed.end)}, ${count(view.closed.rows)} rows`);
    const whole = view.closed.values.filter((v) => !v.feature && v.family === "outliers");
    for (const v of whole) parts.push(`${v.metric} ${number(v.value)}${v.alert ? " (alert)" : ""}`);
  } else {
    parts.push("no closed window yet");
  }
  if (view.filling) parts.push(`filling: ${count(view.filling.rows)} rows, closes at ${time(view.filling.end)}; watermark ${time(watermark)}`);
  put("state", escape(parts.join(" · ")));
}

function draw() {
  if (!status) return;
  serviceLine(status.service);
  alertTable(status.alerts);
  const label = (m) => `${m.name} ${m.version}`.trim();
  const models = status.models.map(label);
  const model = pick("model", models, models[0]);
  options("model", models, model);
  const windows = status.models[models.indexOf(model)].windows;
  const names = windows.map((w) => w.name);
  const name = pick("window", names, names[0]);
  options("window", names, name);
  const view = windows[names.indexOf(name)];
  const shown = view.closed || view.filling;
  const metrics = [...new Set((shown ? shown.values : []).filter((v) => v.family === "drift").map((v) => v.metric))];
  const metric = pick("metric", metrics.length ? metrics : ["jensen_shannon"], "jensen_shannon");
  options("metric", metrics.length ? metrics : [metric], metric);
  stateLine(view, status.service.watermark);
  featureTable(view, metric);
}

async function refresh() {
  try {
    const answer = await fetch("/api/v1/status", { signal: AbortSignal.timeout(5000) });
    status = (await answer.json()) || status;
    at("offline").hidden = true;
    at("offline").querySelector("time").textContent = new Date().toLocaleTimeString();
    draw();
  } catch {
    at("offline").hidden = false;
  }
  setTimeout(refresh, PERIOD);
}

function toggle(event) {
  const row = event.target.closest("tr.feature");
  if (row) keep("feature", chosen.get("feature") === row.dataset.name ? "" : row.dataset.name);
}

for (const key of ["model", "window", "metric"]) {
  at(key).addEventListener("change", (event) => keep(key, event.target.value));
}
at("find").addEventListener("input", draw);
at("features").addEventListener("click", toggle);
at("features").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    toggle(event);
  }
});
refresh();
