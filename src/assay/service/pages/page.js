// The page of the service. All text goes into the page as text, never as markup.
"use strict";
const $ = (id) => document.getElementById(id);
const ROWS_AT_ONCE = 2000, MOST_POINTS = 400;
const courses = new Map();
let info = null;

function headers() {
  const token = sessionStorage.getItem("token");
  return token ? { authorization: `Bearer ${token}` } : {};
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (response.ok) return response;
  let detail = `${response.status}`;
  try { detail = (await response.json()).detail; } catch { /* not from the service itself */ }
  throw new Error(detail);
}

function say(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function draw(svg, shapes) {
  svg.replaceChildren(...shapes.map(([name, attributes, text]) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }));
}

const share = (value) => `${Number((100 * value).toPrecision(3))} %`;
const of = (path) => ($("dataset").value ? `v1/${encodeURIComponent($("dataset").value)}/${path}` : path);

// Lines of Prometheus: name{label="value",...} number
function read(text) {
  const samples = [];
  for (const [, name, labels, number] of text.matchAll(/^(\w+)\{(.*)\} (\S+)$/gm)) {
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value.replace(/\\(.)/g, "$1")]);
    samples.push({ name, value: Number(number), ...Object.fromEntries(pairs) });
  }
  return samples;
}

async function refresh() {
  try {
    const samples = read(await (await ask("metrics")).text());
    const names = [...new Set(samples.filter((s) => s.name === "assay_answering" && s.value).map((s) => s.dataset))];
    const shown = [...$("dataset").options].map((option) => option.value);
    if (names.length > 1 && names.join("\n") !== shown.join("\n")) {
      const before = $("dataset").value;
      $("dataset").replaceChildren(...names.map((name) => element("option", name, { value: name })));
      if (names.includes(before)) $("dataset").value = before;
    }
    $("choice").hidden = names.length < 2;
    info = await (await ask(of("info"))).json();
    describe();
    live(samples.filter((s) => s.dataset === info.name && s.version === info.model_version));
    say("problem", "");
  } catch (error) {
    say("problem", error.message);
  }
}

function describe() {
  $("tag").textContent = `${info.name}:${info.model_version}-${info.statement}`;
  document.title = `${info.name} - Assay`;
  $("guarantee").textContent = info.guarantee;
  const bands = Object.entries(info.fpr_bands ?? {}).slice(0, 10).map(([key, [low, high]]) =>
    `${key === "all" ? "" : `${key}: `}${share(low)} to ${share(high)}`);
  const facts = [
    ["eps", `${share(info.eps)} of normal rows may be flagged; the smallest that can flag is ${share(info.smallest_eps)}`],
    ["band", bands.length ? `${bands.join("; ")}: of this scorer, for 95 % of calibration sets` : "not known"],
    ["m", `${info.n_calibration} calibration rows`],
    ["by", `${info.detector}, adapter ${info.adapter}`],
    ["columns", `${info.columns.length}: ${info.columns.slice(0, 6).join(", ")}${info.columns.length > 6 ? ", ..." : ""}`],
    ["data", info.data_version],
  ];
  if (info.following) facts.push(["follows", info.following.problem ?? "the champion, within seconds of a promotion"]);
  $("facts").replaceChildren(...facts.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
  $("monitors").replaceChildren(...(info.monitors ?? []).map((monitor) => {
    const is = typeof monitor.alarm === "number";
    const item = element("li", `${monitor.name}: ${is ? `ALARM at row ${monitor.alarm}` : "no alarm"} in ${monitor.rows} rows`,
      { class: is ? "alarm" : "" });
    item.append(course(monitor));
    return item;
  }));
}

// The capital of a monitor, which is 1 before the first row, as this page has seen it.
function course(monitor) {
  const key = `${info.name}:${info.model_version} ${monitor.name}`, seen = courses.get(key) ?? [[0, 0]];
  courses.set(key, seen);
  if (monitor.rows > seen.at(-1)[0]) seen.push([monitor.rows, monitor.log10_capital ?? 0]);
  if (seen.length > MOST_POINTS) courses.set(key, seen.filter((_, i) => !i || (seen.length - 1 - i) % 2 === 0));
  const capitals = seen.map(([, capital]) => capital), alarm = monitor.log10_threshold;
  const low = Math.min(0, ...capitals), high = Math.max(alarm, ...capitals);
  const x = (rows) => 10 + 400 * rows / Math.max(1, monitor.rows), y = (capital) => 55 - 50 * (capital - low) / (high - low);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const said = `log10 of the capital: now ${capitals.at(-1).toFixed(2)}; the alarm is at ${alarm.toFixed(2)} (dashed)`;
  for (const [name, value] of [["viewBox", "0 0 420 60"], ["role", "img"], ["aria-label", said]]) svg.setAttribute(name, value);
  draw(svg, [
    ["line", { x1: 10, x2: 410, y1: y(0), y2: y(0), class: "rule" }],
    ["line", { x1: 10, x2: 410, y1: y(alarm), y2: y(alarm), class: "even" }],
    ["polyline", { points: seen.map(([rows, capital]) => `${x(rows)},${y(capital)}`).join(" "), class: "course" }],
    ["title", {}, said],
  ]);
  return svg;
}

function latency(samples) {
  const upTo = (le) => (le === "+Inf" ? Infinity : 1000 * Number(le));
  const buckets = samples.filter((s) => s.name === "assay_score_seconds_bucket").map((s) => [upTo(s.le), s.value]).sort((a, b) => a[0] - b[0]);
  const n = buckets.at(-1)?.[1];
  const within = (part) => {
    const i = buckets.findIndex(([, count]) => count >= part * n);
    return Number.isFinite(buckets[i][0]) ? `at most ${buckets[i][0]} ms` : `more than ${buckets[i - 1][0]} ms`;
  };
  say("latency", n ? `${n} requests: half took ${within(0.5)}, 99 % ${within(0.99)}` : "");
}

function live(samples) {
  const total = (name) => samples.filter((s) => s.name === name).reduce((sum, s) => sum + s.value, 0);
  const rows = total("assay_rows_total"), flagged = total("assay_flagged_rows_total");
  $("counts").textContent = rows ? `${rows} rows, ${flagged} flagged` : "no rows yet";
  for (const figure of document.querySelectorAll("figure")) figure.hidden = !rows;
  const challenger = info.challenger?.model_version;
  const by = (who) => samples.filter((s) => s.name === "assay_compared_rows_total" && s.challenger === challenger
    && s.flagged_by === who).reduce((sum, s) => sum + s.value, 0);
  say("shadow", challenger ? `${challenger} is in the shadow: ${by("both")} rows flagged by both, ${by("champion")} by the `
    + `champion alone, ${by("challenger")} by the challenger alone, ${by("neither")} by neither` : "");
  latency(samples);
  if (!rows) return;
  // Tenths: p-values are multiples of 1 / (m + 1), and narrower bins would hold uneven numbers of these.
  const bins = [...Array(10).keys()].map((tenth) => ({ edges: [tenth / 10, (tenth + 1) / 10], value: 0 }));
  for (const s of samples) {
    if (s.name === "assay_p_values_total") bins[Math.floor(10 * Number(s.bin.split("-")[0]) + 1e-9)].value += s.value;
  }
  histogram(bins, rows);
  rate(flagged / rows);
}

function histogram(bins, rows) {
  const most = 4, x = (p) => 10 + 400 * p, y = (density) => 130 - 27 * Math.min(density, most);
  const shapes = [["line", { x1: 10, x2: 410, y1: 130, y2: 130, class: "rule" }]], said = [];
  for (const { edges: [low, high], value } of bins) {
    const density = value / rows / (high - low);
    shapes.push(["rect", { x: x(low) + 0.5, width: x(high) - x(low) - 1, y: y(density), height: 130 - y(density), class: "bar" }]);
    if (density > most) shapes.push(["text", { x: x(low), y: 14 }, `${Math.round(density)} x`]);
    said.push(`p ${low} to ${high}: ${value} rows, ${density.toFixed(2)} times as many as expected`);
  }
  shapes.push(["line", { x1: 10, x2: 410, y1: y(1), y2: y(1), class: "even" }]);
  for (const p of [0, 0.25, 0.5, 0.75, 1]) shapes.push(["text", { x: x(p), y: 145, "text-anchor": p ? (p < 1 ? "middle" : "end") : "start" }, `${p}`]);
  draw($("histogram"), shapes);
  $("histogram").setAttribute("aria-label", said.join("; "));
}

function rate(value) {
  const band = info.fpr_bands?.all, eps = info.eps;
  const most = Math.min(1, Math.max(4 * eps, 1.2 * value, band ? 1.2 * band[1] : 0)), x = (r) => 10 + 400 * Math.min(1, r / most);
  const shapes = [["line", { x1: 10, x2: 410, y1: 16, y2: 16, class: "rule" }]];
  if (band) shapes.push(["rect", { x: x(band[0]), width: x(band[1]) - x(band[0]), y: 8, height: 16, class: "band" }]);
  shapes.push(["line", { x1: x(eps), x2: x(eps), y1: 3, y2: 29, class: "even" }]);
  shapes.push(["circle", { cx: x(value), cy: 16, r: 5, class: "dot" }]);
  for (const [r, anchor] of [[0, "start"], [most, "end"]]) shapes.push(["text", { x: x(r), y: 41, "text-anchor": anchor }, share(r)]);
  draw($("rate"), shapes);
  const text = `${share(value)} of the rows were flagged; eps is ${share(eps)} (dashed)${band ? `, its band ${share(band[0])} to ${share(band[1])} (shaded)` : ""}`;
  $("rate").setAttribute("aria-label", text);
  $("rate-text").textContent = text;
}

// RFC 4180 with any separator, at most so many rows.
function table(text, separator, most) {
  const rows = [];
  let row = [], cell = "", quoted = false;
  const end = () => { row.push(cell); cell = ""; };
  const endRow = () => { end(); if (row.length > 1 || row[0] !== "") rows.push(row); row = []; };
  for (let i = 0; i < text.length && rows.length < most; i++) {
    const sign = text[i];
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (text[i + 1] === '"') { cell += sign; i++; } else quoted = false;
    } else if (sign === '"' && cell === "") quoted = true;
    else if (sign === separator) end();
    else if (sign === "\n") endRow();
    else if (sign !== "\r" || text[i + 1] !== "\n") cell += sign;
  }
  if (rows.length === most) return rows;
  if (quoted) throw new Error("a quote is opened and never closed; the file may be cut off");
  if (cell !== "" || row.length) endRow();
  return rows;
}

function written(rows) {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function values(row, number, places, texts) {
  return places.map(([name, place]) => {
    const cell = row[place];
    if (cell === undefined) throw new Error(`row ${number} has ${row.length} cells; every row needs all columns`);
    if (cell === "" && name !== info.category_column) return null;
    if (texts.has(name)) return cell;
    if (cell.trim() === "" || !Number.isFinite(Number(cell))) throw new Error(`row ${number}, column ${name}: ${JSON.stringify(cell.slice(0, 80))} is no number`);
    return Number(cell);
  });
}

async function score(file) {
  $("result").hidden = true;
  URL.revokeObjectURL($("result").href);
  try {
    if (!info) await refresh();
    const text = (await file.text()).replace(/^\ufeff/, "");
    const matches = (separator) => (table(text, separator, 1)[0] ?? []).filter((name) => info.columns.includes(name)).length;
    const separator = [",", ";", "\t"].map((sign) => [matches(sign), sign]).sort((a, b) => b[0] - a[0])[0][1];
    const [head, ...rows] = table(text, separator, Infinity);
    if (!head) throw new Error("the file is empty");
    const texts = new Set([...info.columns_of_categories, ...info.columns_of_dates, ...info.columns_of_texts, info.category_column]);
    const places = [...info.columns, info.category_column].filter((name) => name !== null).map((name) => [name, head.indexOf(name)]);
    const missing = places.filter(([, place]) => place < 0).map(([name]) => name);
    if (missing.length) throw new Error(`the file has no column ${missing[0]}; the scorer needs ${places.map(([name]) => name).join(", ")}`);
    const out = [[...head, "score", "p_value", "flagged"]];
    let flagged = 0, version = "";
    for (let start = 0; start < rows.length; start += ROWS_AT_ONCE) {
      say("progress", `${start} of ${rows.length} rows`);
      const part = rows.slice(start, start + ROWS_AT_ONCE);
      const body = { columns: places.map(([name]) => name), rows: part.map((row, i) => values(row, start + i + 1, places, texts)) };
      const asked = ask(of("score"), { method: "POST", body: JSON.stringify(body) });
      const answer = await (await asked.catch((error) => {
        throw new Error(start ? `of the rows from ${start} on, ${error.message}` : error.message);
      })).json();
      if (version && answer.model_version !== version) throw new Error("the champion changed meanwhile; score the file again");
      version = answer.model_version;
      answer.results.forEach((result, i) => {
        flagged += result.flagged;
        out.push([...part[i], result.score ?? "inf", result.p_value, Number(result.flagged)]);
      });
    }
    say("progress", `${rows.length} rows of ${file.name} scored by ${info.name}:${version}, ${flagged} flagged`);
    $("result").href = URL.createObjectURL(new Blob([written(out)], { type: "text/csv" }));
    $("result").download = `${file.name.replace(/\.[^.]*$/, "")}.scored.csv`;
    $("result").hidden = false;
    refresh();
  } catch (error) {
    say("progress", `not scored: ${error.message}`);
  }
}

async function versions() {
  say("done", "looking ...");
  try {
    const { scorers } = await (await ask(of("scorers"))).json();
    $("versions").tBodies[0].replaceChildren(...scorers.map((scorer) => {
      const row = document.createElement("tr");
      row.append(element("td", scorer.tag), element("td", `${scorer.detector}, ${scorer.adapter}`));
      row.append(element("td", [scorer.champion ? "champion" : scorer.former ? `was champion; ${scorer.where}` : scorer.where, scorer.broken,
        Object.keys(scorer.quarantined ?? {}).length ? "learned from quarantined rows" : ""].filter(Boolean).join("; ")));
      const cell = document.createElement("td");
      if (!scorer.champion && !scorer.broken) {
        const verb = scorer.former ? "Roll back" : "Promote";
        const label = `${scorer.former ? "Roll back to" : verb} ${scorer.tag}`;
        const button = element("button", verb, { type: "button", "aria-label": label });
        button.disabled = !sessionStorage.getItem("token");
        button.title = button.disabled ? "needs a token of the role admin" : "";
        button.onclick = () => promote(scorer.tag, verb, label);
        cell.append(button);
      }
      row.append(cell);
      return row;
    }));
    $("versions").hidden = false;
    $("load").textContent = "Look again";
    say("done", sessionStorage.getItem("token") ? "" : "To promote or roll back, enter a token of the role admin above.");
  } catch (error) {
    say("done", error.message);
  }
}

function promote(tag, verb, label) {
  $("ask-title").textContent = `${label}?`;
  $("yes").textContent = verb;
  $("why").value = "";
  $("ask").returnValue = "";
  $("ask").showModal();
  $("ask").onclose = async () => {
    if ($("ask").returnValue !== "yes") return;
    say("done", `${tag} is being promoted ...`);
    try {
      const body = JSON.stringify({ tag, why: $("why").value });
      const { said } = await (await ask("promote", { method: "POST", body })).json();
      await versions();
      say("done", said);
    } catch (error) {
      say("done", error.message);
    }
  };
}

async function offer() {
  for (const id of ["report", "lineage"]) {
    const link = $(id), path = of(id);
    link.href = path;
    link.onclick = async (event) => {
      if (!sessionStorage.getItem("token")) return; // a link cannot send a token: the file is downloaded instead
      event.preventDefault();
      try {
        const made = element("a", "", { href: URL.createObjectURL(await (await ask(path)).blob()), download: `${info.name}-${id}.html` });
        made.click();
      } catch (error) {
        say("problem", error.message);
      }
    };
  }
  let offered = {};
  try { offered = await (await ask(of("project"))).json(); } catch { /* refresh() says why */ }
  $("report").hidden = !offered.report;
  $("lineage").hidden = $("project").hidden = !offered.project;
}

async function begin() {
  await refresh();
  await offer();
}

$("enter").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  $("token").value = "";
  begin().then(() => { if (!$("versions").hidden) versions(); });
};
$("dataset").onchange = begin;
$("load").onclick = versions;
$("file").onchange = () => { if ($("file").files.length) score($("file").files[0]); $("file").value = ""; };
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) score(event.dataTransfer.files[0]);
  });
}
begin();
setInterval(() => { if (!document.hidden) refresh(); }, 5000);
