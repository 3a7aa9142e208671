// Fetches /api/v1/status every two seconds and draws it. The selection stands in the address.

import { course, gauge, histogram, performance, waterfall } from "./charts.js";
import { at, count, html, number, percent, put, putOptions, putRows, time } from "./dom.js";

const PERIOD = 2000;
const SELECTION = ["model", "version", "segment", "window", "metric", "feature"];
const STALLED_SECONDS = 30;
const ALL = "all rows";
let answered = null; // when the service answered last
let status = null;
let asked = 0;
let next = 0;

const selection = () => new URLSearchParams(location.hash.slice(1));
const label = (m) => `${m.name} ${m.version}`.trim();

function select(changes) {
  const chosen = selection();
  for (const [key, value] of Object.entries(changes)) {
    if (value) chosen.set(key, value);
    else chosen.delete(key);
  }
  history.replaceState(null, "", `#${chosen}`);
  refresh();
}

// --- the service -------------------------------------------------------------------------------

function state(s) {
  if (s.heartbeat_age_seconds > STALLED_SECONDS) return [`stalled for ${number(s.heartbeat_age_seconds)} s`, "bad"];
  if (!s.ready) return [s.active ? "starting" : "waiting or restoring", "bad"];
  if (s.role === "aggregator" && !s.active) return ["standing by", "good"];
  return [s.finished ? "input read to its end" : "reading", "good"];
}

function drawService(s) {
  const reasons = Object.entries(s.rejected);
  const rejected = reasons.reduce((sum, [, n]) => sum + n, 0);
  const [word, kind] = state(s);
  // what came in the active replica alone knows
  const input = [
    ["watermark", time(s.watermark)],
    ["events counted", count(s.accepted)],
    ["too late", count(s.late + s.expired), s.late + s.expired > 0 && "warn"],
    ["rejected", rejected ? `${count(rejected)} (${reasons.map(([r, n]) => `${r} ${count(n)}`).join(", ")})` : "0", rejected > 0 && "warn"],
  ];
  const parts = [
    ["state", word, kind],
    ...(s.active ? input : [["role", ROLES[s.role]]]),
    ...(s.role !== "aggregator" ? [["not read yet", s.lag === null ? "unknown" : count(s.lag)]] : []),
    ["last commit", time(s.last_commit)],
    ["memory", s.memory_limit ? percent(s.state_bytes / s.memory_limit) : "–"],
    ...(s.active ? [["sees", s.single_instance ? "this instance only" : "the whole group"]] : []),
  ];
  if (s.commit_failures) parts.push(["failed commits", count(s.commit_failures), "bad"]);
  put(at("source"), html`${s.source} · version ${s.version}`);
  put(at("service"), parts.map(([name, value, mark]) =>
    html`<div><dt>${name}</dt><dd class="${mark || ""}">${value}</dd></div>`));
}

const ROLES = { worker: "worker", aggregator: "aggregator", all: "worker and aggregator" };

// A replica over a Kafka store that is not the one that evaluates: what it is, and where to look.
function drawReplica(s) {
  const reads = s.role !== "aggregator", judges = s.role !== "worker";
  const told = s.ready
    ? [reads && "It reads and counts its partitions.",
       judges ? "It stands by: another replica evaluates, and this one takes over when that one is gone."
         : "It closes no window: the active aggregator does."]
    : [reads && "It waits for its partitions, or restores what was counted of them.",
       judges && "It waits for its group; or it is to be the active one, and reads what was counted and concluded before."];
  put(at("part"), html`<p><strong>Not active, so there are no windows and no alerts here.</strong> ${told.filter(Boolean).join(" ")}</p>
    <p>Where to look: the active replica has <code>stream_monitor_aggregator_active</code> 1; Prometheus and the dashboard
    “Monitor operations” name its instance.</p>${s.reads.length > 0 && html`<div class="scroll"><table class="changes"><thead><tr>
    <th scope="col">partition of this replica</th><th scope="col" class="number">not read yet</th></tr></thead><tbody>${
      s.reads.map((r) => html`<tr><td>${r.partition}</td><td class="number">${r.lag === null ? "–" : count(r.lag)}</td></tr>`)
    }</tbody></table></div>`}${reads && !s.reads.length && html`<p class="mute">It has no partition.</p>`}`);
}

function drawAlerts(alerts, several) {
  document.title = alerts.length ? `(${alerts.length}) stream_monitor` : "stream_monitor";
  if (!alerts.length) {
    put(at("alerts"), html`<p class="quiet">✓ Nothing is firing.</p>`);
    return;
  }
  const groups = Object.values(Object.groupBy(alerts, (a) =>
    JSON.stringify([a.model, a.version, a.segment, a.window, a.feature || a.family])));
  for (const group of groups) group.sort((a, b) => b.ratio - a.ratio);
  groups.sort(([a], [b]) => b.ratio - a.ratio);
  const whole = groups.filter(([a]) => !a.segment), segments = groups.filter(([a]) => a.segment);
  const open = document.querySelector("#alerts details")?.open;
  put(at("alerts"), html`${whole.length > 0 && alertTable(whole, several)}${segments.length > 0 && html`
    <details${open ? " open" : ""}><summary>${count(segments.length)} more in segments: ${
      [...new Set(segments.map(([a]) => a.segment))].join("; ")}</summary>${alertTable(segments, several)}</details>`}`);
}

const alertTable = (groups, several) => html`<table class="firing"><thead><tr><th scope="col">feature</th>
    <th scope="col">furthest value</th><th scope="col" class="number">value</th><th scope="col" class="number">threshold</th>
    <th scope="col" class="number">× threshold</th><th scope="col">firing too</th><th scope="col" class="number">rows</th>
    <th scope="col">window</th><th scope="col">since</th></tr></thead>
    <tbody>${groups.map((group) => alertRow(group, several))}</tbody></table>`;

function alertRow([a, ...others], several) {
  const link = new URLSearchParams({ model: a.model, version: a.version, segment: a.segment, window: a.window, feature: a.feature });
  const below = a.lower_threshold !== null && a.value < a.lower_threshold;
  const since = others.reduce((first, o) => (o.since < first ? o.since : first), a.since);
  return html`<tr><td>${a.feature ? html`<a href="#${link}">${a.feature}</a>` : a.family.replace("_", " ").replace("realized", "realised")}${
      a.segment && html`<br><span class="kind">${a.segment}</span>`}${a.explanation && html`<br><span class="kind">${a.explanation}</span>`}</td>
    <td>${a.metric}</td><td class="number"><strong>${number(a.value)}</strong></td>
    <td class="number">${below ? `not below ${number(a.lower_threshold)}` : number(a.upper_threshold)}</td>
    <td class="number">${a.ratio < 1e6 ? number(a.ratio) : "∞"}</td>
    <td class="mute">${others.map((o) => o.metric).join(", ")}</td><td class="number">${count(a.rows)}</td>
    <td>${several && `${a.model} ${a.version} · `}${a.window} to ${time(a.window_end)}</td><td>${time(a.since && since)}</td></tr>`;
}

// --- the selected window -----------------------------------------------------------------------

function verdict(values) {
  const families = [...new Set(values.filter((v) => v.alert).map((v) => v.family))];
  if (families.length) return html`<span class="chip bad">▲ ${families.join(", ")}</span>`;
  if (values.some((v) => v.alert === false)) return html`<span class="chip good">✓ fine</span>`;
  return html`<span class="chip unjudged" title="too few rows, no threshold, or still filling">not judged</span>`;
}

function drawState(view, watermark) {
  const filling = view.filling && html`Filling: ${count(view.filling.rows)}${
    view.length.endsWith("rows") ? ` of ${view.length}` : html` rows, closes when the watermark passes ${time(view.filling.end)}`}.`;
  if (view.closed) {
    const { start, end, rows, revision } = view.closed;
    put(at("state"), html`Newest closed window (${view.length}): ${start ? `${time(start)} to ${time(end)}, ` : ""}<strong>${count(rows)} rows</strong>${
      revision ? `, corrected ${count(revision)} times` : ""}. ${filling}`);
  } else {
    put(at("state"), html`<strong>No closed window yet</strong>, so nothing is judged${
      watermark ? `; the watermark is at ${time(watermark)}` : ""}. ${filling || "No rows have been counted yet."}`);
  }
}

function drawWhole(view) {
  put(at("whole"), view.whole.map((v) => html`<div class="tile"><span class="kind">${v.metric}</span>
    ${verdict([v])} <span>${number(v.value)}</span> ${gauge(v)} ${course(v.course, view.history, 140, 28)}</div>`));
}

function drawPerformance(view) {
  at("performance").hidden = !view.performance.length;
  put(at("charts"), view.performance.map((p) => {
    const estimated = p.estimated_performance, realized = p.realized_performance;
    const value = (v, word) => v && v.value !== null && html` <span class="key-${word}">${word} ${number(v.value)}</span> ${v.alert ? html`<span class="chip bad">▲</span>` : ""}`;
    const ages = p.maturities || [];
    return html`<figure><figcaption><strong>${p.metric}</strong>${value(estimated, "estimated")}${value(realized, "realised")}${
      realized && realized.maturity && html` <span class="kind">after ${realized.maturity}</span>`}</figcaption>
      ${performance(estimated, realized, view.history, 390, 130, ages)}</figure>`;
  }));
}

// What labels tell: the split of a change, and what it says about the estimate.
function drawOutcomes(view) {
  const known = view.outcomes.filter((o) => o.closed);
  at("outcomes").hidden = !view.outcomes.length;
  if (!known.length) {
    put(at("split"), html`<p class="mute">No window is mature yet: its predictions must be older than ${
      view.outcomes.map((o) => o.maturity).join(", ")}.</p>`);
    return;
  }
  const newest = known[known.length - 1];
  const shares = known.map((o) => html`<span>after ${o.maturity}: <strong>${percent(o.share)}</strong> of ${
    count(o.closed.rows)} labels in, window to ${time(o.closed.end)}</span>`);
  const warnings = newest.told.filter((v) => v.alert).map((v) => html`<p class="chip bad">▲ ${WARNINGS[v.metric] || v.metric}${
    v.feature && ` (${v.feature})`}</p>`);
  const tiles = newest.told.filter((v) => v.value !== null).map((v) => html`<div class="tile"><span class="kind">${v.metric}${
    v.feature && ` ${v.feature}`}</span> ${verdict([v])} <span>${number(v.value)}</span> ${course(v.course, newest.history, 140, 28)}</div>`);
  put(at("split"), html`<p class="legend">${shares}</p>${warnings}<div class="figures">${newest.effects.map((e) => html`<figure>
    <figcaption><strong>${e.metric}</strong> ${e.inputs[2] && html`<span class="chip bad">▲ inputs</span>`} ${
      e.world[2] && html`<span class="chip bad">▲ world</span>`}</figcaption>${waterfall(e, 390, 96)}<p class="kind">${e.words}</p></figure>`)}</div>
    <div class="tiles">${tiles}</div>`);
}

const WARNINGS = {
  evidence: "the estimate cannot be trusted now: labels differ from what it expects",
  selection: "the labelled are not like the others: realised performance is that of the labelled",
  calibration_drift: "scores no longer mean what they meant", calibration_trend: "scores no longer mean what they meant",
};

function change(c) {
  return html`<tr><td>${c.label}</td><td class="number">${percent(c.reference)}</td><td class="number">${percent(c.window)}</td>
    <td class="${c.window > c.reference ? "gain" : "loss"}">${c.window > c.reference ? "▲ gained" : "▼ lost"}</td>
    <td><svg width="120" height="10" role="img" aria-label="${percent(c.explains)}"><rect class="track" width="120" height="10" rx="2"/>
    <rect class="current" width="${(120 * c.explains).toFixed(1)}" height="10" rx="2"/></svg> ${percent(c.explains)}</td></tr>`;
}

function scoreCell(v) {
  if (!v || (v.value === null && v.live === null)) return html`<span class="mute">–</span>`;
  const live = v.live !== null && status.view.closed && html`<br><span class="kind">${number(v.live)} while filling</span>`;
  return html`<span class="value ${v.alert === null ? "mute" : ""}">${number(v.value)}</span> ${gauge(v)}${live}`;
}

function shareCell(own, metric, share, word) {
  const v = own.find((x) => x.metric === metric);
  const known = v && v.value !== null ? v.value : share;
  if (known === undefined || (word && !known)) return "";
  return html`<span class="share ${v && v.alert ? "bad" : known ? "" : "mute"}">${v && v.alert && "▲ "}${word}${percent(known)}</span>`;
}

function featureRow(f, view, shown, open) {
  const main = f.values.find((v) => v.metric === view.metric);
  const lost = f.lost[shown] || {};
  return { key: f.name, kind: "feature", name: f.name, open, cells: [
    ["", html`<button>${f.name}</button><br><span class="kind">${
      f.role === "feature" || f.role === f.name ? "" : `${f.role}, `}${f.kind}</span>`],
    ["", verdict(f.values)],
    ["", scoreCell(main)],
    ["", course(f.course, view.history, 150, 32)],
    ["", histogram(f.histogram, shown, f.kind === "continuous", 210, 36)],
    ["number", html`${shareCell(f.values, "missing_values", lost.missing, "")}${
      shareCell(f.values, "wrong_type", lost.wrong_type, "wrong type ")}`],
    ["number", [shareCell(f.values, "unseen_values", undefined, ""), shareCell(f.values, "numerical_range", undefined, "")]],
  ] };
}

function detailRow(f, view, shown) {
  const values = view.detail.values;
  const main = values.find((v) => v.metric === view.metric) || values[0];
  const bounds = (v) => (v.lower === null ? number(v.upper) : `${number(v.lower)} … ${number(v.upper)}`);
  const rows = values.map((v) => html`<tr><td>${v.metric}</td><td>${verdict([v])}</td>
    <td class="number">${number(v.value)}</td><td class="number">${bounds(v)}</td><td class="number">${number(v.p_value)}</td>
    <td class="number mute">${number(v.live)}</td><td>${course(v.course, view.history, 150, 28)}</td></tr>`);
  return { key: `${f.name}/detail`, kind: "detail", name: f.name, cells: [["", html`<div class="figures">
    <figure><figcaption>Share of values: reference, ${shownName(shown)}</figcaption>
    ${histogram(f.histogram, shown, f.kind === "continuous", 540, 150, true)}</figure>
    ${main && html`<figure><figcaption>${main.metric} of the last ${view.history.length} windows</figcaption>
    ${course(main.course, view.history, 540, 168, true)}</figure>`}</div>
    ${view.detail.changes.length > 0 && html`<table class="changes"><thead><tr><th scope="col">where it changed</th>
    <th scope="col" class="number">reference</th><th scope="col" class="number">${shownName(shown)}</th><th scope="col"></th>
    <th scope="col">explains of the Jensen–Shannon divergence</th></tr></thead><tbody>${view.detail.changes.map(change)}</tbody></table>`}
    <table><thead><tr><th scope="col">value of</th><th scope="col">verdict</th><th scope="col" class="number">value</th>
    <th scope="col" class="number">threshold</th><th scope="col" class="number">p-value</th><th scope="col" class="number">while filling</th>
    <th scope="col">last windows</th></tr></thead><tbody>${rows}</tbody></table>`]] };
}

const shownName = (shown) => (shown === "closed" ? "newest closed window" : "window that is filling");

function drawFeatures(view) {
  const shown = view.closed ? "closed" : "filling";
  const find = at("find").value.toLowerCase();
  const open = selection().get("feature");
  const rows = view.features.filter((f) => f.name.toLowerCase().includes(find)).flatMap((f) => [
    featureRow(f, view, shown, f.name === open),
    ...(f.name === open && view.detail && view.detail.name === open ? [detailRow(f, view, shown)] : []),
  ]);
  put(at("score"), html`${view.metric || "score"}`);
  put(at("shown"), html`${shownName(shown)}`);
  putRows(at("features"), rows);
}

function draw() {
  drawService(status.service);
  const active = status.view !== null;
  at("replica").hidden = active;
  for (const section of document.querySelectorAll(".windows")) section.hidden = !active;
  if (!active) {
    document.title = "stream_monitor";
    drawReplica(status.service);
    return;
  }
  drawAlerts(status.alerts, status.models.length > 1);
  const view = status.view;
  const model = status.models.find((m) => m.name === view.model && m.version === view.version);
  putOptions(at("model"), status.models.map(label), label(model));
  putOptions(at("window"), model.windows, view.window);
  at("segment").parentElement.hidden = model.segments.length < 2;
  putOptions(at("segment"), model.segments.map((s) => s || ALL), view.segment || ALL);
  putOptions(at("metric"), view.metrics, view.metric);
  drawState(view, status.service.watermark);
  drawWhole(view);
  drawPerformance(view);
  drawOutcomes(view);
  drawFeatures(view);
}

// --- asking and answering ----------------------------------------------------------------------

async function refresh() {
  const mine = ++asked;
  clearTimeout(next);
  const wanted = new URLSearchParams([...selection()].filter(([key]) => SELECTION.includes(key)));
  try {
    const url = `${location.origin}/api/v1/status?${wanted}`; // without a password of the address
    const answer = await fetch(url, { signal: AbortSignal.timeout(5000) });
    if (mine !== asked) return; // the selection has changed meanwhile
    if (answer.status === 400 && wanted.size) return select(Object.fromEntries(SELECTION.map((key) => [key, ""])));
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
    status = (await answer.json()) || status;
    answered = new Date();
    at("offline").hidden = true;
    document.body.classList.remove("stale");
    if (status) draw();
    else put(at("source"), html`starting`);
  } catch (error) {
    if (mine !== asked) return;
    at("offline").hidden = false;
    at("offline").textContent = `The service does not answer (${error.message}). ${
      answered ? `What you see is from ${answered.toISOString().slice(11, 19)} UTC.` : "Nothing is known yet."}`;
    document.body.classList.add("stale");
  }
  next = setTimeout(refresh, PERIOD);
}

at("model").addEventListener("change", (event) => {
  const model = status.models[event.target.selectedIndex];
  select({ model: model.name, version: model.version, segment: "", window: "", metric: "", feature: "" });
});
for (const key of ["window", "metric"]) {
  at(key).addEventListener("change", (event) => select({ [key]: event.target.value }));
}
at("segment").addEventListener("change", (event) =>
  select({ segment: event.target.value === ALL ? "" : event.target.value }));
at("find").addEventListener("input", () => status?.view && drawFeatures(status.view));
at("features").addEventListener("click", (event) => {
  const row = event.target.closest("tr.feature");
  if (row) select({ feature: selection().get("feature") === row.dataset.name ? "" : row.dataset.name });
});
addEventListener("hashchange", async () => {
  await refresh();
  document.querySelector('button[aria-expanded="true"]')?.scrollIntoView({ block: "center" });
});
refresh();
