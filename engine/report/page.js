// Draws the report from the JSON in the page. Plain JavaScript: it has to work from disk, without a build and a network.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
/** Points drawn at most: more than pixels only cost time. */
const DRAWN = 600;

/** An element with attributes and children; text is never parsed as HTML. */
function make(name, attributes = {}, ...children) {
  const element = name.startsWith("svg:")
    ? document.createElementNS(SVG, name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function format(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return value.toLocaleString("en-US");
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(3)));
}

// Curves ---------------------------------------------------------------------------------------------------------

/** Exponential moving average that starts without a bias towards the first value; holes stay holes. */
function smoothed(values, weight) {
  let sum = 0, norm = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

/** Means of equal runs of points, so that at most DRAWN remain. */
function thinned(points) {
  const run = Math.ceil(points.length / DRAWN);
  if (run <= 1) return points;
  const out = [];
  for (let i = 0; i < points.length; i += run) {
    const part = points.slice(i, i + run);
    out.push(part[0].map((_, k) => part.reduce((sum, point) => sum + point[k], 0) / part.length));
  }
  return out;
}

/** Round numbers that cover [low, high]; never −0. */
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((s) => s * power >= rough) * power;
  const out = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k++) out.push(k * step || 0);
  return out;
}

function chart(metric, weight, width) {
  const wide = metric.first, height = wide ? 260 : 150;
  const left = 52, right = 10, top = 10, bottom = 22;
  const rows = data.steps.map((step, i) => [step, metric.values[i], metric.errors?.[i] ?? 0])
    .filter((row) => row[1] !== null);
  const averages = smoothed(rows.map((row) => row[1]), weight);
  const points = thinned(rows.map((row, i) => [...row, averages[i]]));
  const last = rows.at(-1);
  const title = make("h3", {}, metric.name);
  const value = make("span");
  const box = make("div", { class: wide ? "chart first" : "chart" }, make("header", {}, title, value));
  const idle = last ? `${format(last[1])}${metric.errors ? ` ± ${format(last[2])}` : ""}` : "no values";
  value.textContent = idle;
  if (points.length === 0) return box;

  let low = Math.min(...points.map((p) => p[1] - p[2])), high = Math.max(...points.map((p) => p[1] + p[2]));
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  const first = points[0][0], end = points.at(-1)[0];
  const x = (step) => left + (end === first ? 0.5 : (step - first) / (end - first)) * (width - left - right);
  const y = (v) => height - bottom - (v - low) / (high - low) * (height - top - bottom);
  const path = (list) => list.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");

  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": metric.name });
  for (const tick of ticks(low, high, wide ? 5 : 4)) {
    svg.append(
      make("svg:line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      make("svg:text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, format(tick)),
    );
  }
  const steps = end === first ? [first] : ticks(first, end, Math.ceil(width / 140)).filter(Number.isInteger);
  for (const tick of steps) {
    svg.append(make("svg:text", { x: x(tick), y: height - 4, "text-anchor": "middle" }, format(tick)));
  }
  if (metric.errors) {
    const upper = points.map((p) => [x(p[0]), y(p[1] + p[2])]);
    const lower = points.map((p) => [x(p[0]), y(p[1] - p[2])]).reverse();
    svg.append(make("svg:path", { class: "band", d: path([...upper, ...lower]) + "Z" }));
  }
  svg.append(
    make("svg:path", { class: "raw", d: path(points.map((p) => [x(p[0]), y(p[1])])) }),
    make("svg:path", { class: "smooth", d: path(points.map((p) => [x(p[0]), y(p[3])])) }),
  );
  if (points.length === 1) {
    svg.append(make("svg:circle", { class: "dot", r: 3, cx: x(first), cy: y(points[0][1]) }));
  }

  const cursor = make("svg:line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  const dot = make("svg:circle", { class: "dot", r: 3.5, visibility: "hidden" });
  svg.append(cursor, dot);
  const show = (visible) => {
    for (const mark of [cursor, dot]) mark.setAttribute("visibility", visible ? "visible" : "hidden");
  };
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const at = (event.clientX - frame.left) / frame.width * width;
    const near = rows.reduce((best, row) =>
      Math.abs(x(row[0]) - at) < Math.abs(x(best[0]) - at) ? row : best
    );
    cursor.setAttribute("x1", x(near[0]));
    cursor.setAttribute("x2", x(near[0]));
    dot.setAttribute("cx", x(near[0]));
    dot.setAttribute("cy", Math.min(height - bottom, Math.max(top, y(near[1]))));
    value.textContent = `step ${near[0]}: ${format(near[1])}${metric.errors ? ` ± ${format(near[2])}` : ""}`;
    show(true);
  });
  svg.addEventListener("pointerleave", () => {
    value.textContent = idle;
    show(false);
  });
  box.append(svg);
  return box;
}

/** One unit of a drawing is one pixel, so text has the same size in every chart: style.css says how wide each is. */
function drawCharts() {
  const charts = document.getElementById("charts"),
    weight = Number(document.getElementById("smoothing").value);
  const column = Number.parseFloat(getComputedStyle(charts).gridTemplateColumns), inset = 31;
  charts.replaceChildren(
    ...data.metrics.map((metric) =>
      chart(metric, weight, (metric.first ? charts.clientWidth : column) - inset)
    ),
  );
}

// Samples --------------------------------------------------------------------------------------------------------

/** The size that counts as strong for a per-token field: few values lie beyond it. */
function scaleOf(field) {
  const sizes = data.samples.flatMap((s) => s.perToken[field] ?? []).map(Math.abs).sort((a, b) => a - b);
  return sizes[Math.floor(sizes.length * 0.95)] || 1;
}

/** Blue for what is positive, orange for what is negative, stronger the further from zero. */
function color(value, scale) {
  const strength = Math.min(1, Math.abs(value) / scale) * 0.6;
  return `rgb(var(--${value < 0 ? "bad" : "good"}) / ${(strength * 100).toFixed(0)}%)`;
}

function tokenElement(text, name, value, scale) {
  const shown = text.replaceAll("\n", "↵\n");
  const element = make("i", {}, shown);
  if (/^<.+>$/.test(text)) element.className = "mark";
  if (value === undefined || value === null) return element;
  element.style.background = color(value, scale);
  element.title = `${JSON.stringify(text)}  ${name} ${format(value)}`;
  return element;
}

function sampleElement(sample, field, scale) {
  const values = sample.perToken[field] ?? [];
  const facts = [["step", sample.step], ["prompt", sample.index], ...Object.entries(sample.scores), [
    "tokens",
    sample.tokens.length,
  ]];
  const header = make("header");
  for (const [name, value] of facts) {
    header.append(make("span", {}, `${name} `, make("b", {}, format(value))));
  }
  if (sample.role) header.append(make("span", {}, sample.role));
  // Data was never cut: only what a model sampled has a version.
  if (!sample.finished && sample.weightVersion >= 0) {
    header.append(make("span", {}, "cut at the length limit"));
  }
  const tokens = sample.tokens.map((text, i) => tokenElement(text, field, values[i], scale));
  const text = make("p", {}, make("span", { class: "prompt" }, sample.prompt), ...tokens);
  return make("article", { class: "sample" }, header, text);
}

function drawSamples() {
  const step = document.getElementById("step").value, order = document.getElementById("order").value;
  const field = document.getElementById("field").value, scale = scaleOf(field);
  let shown = data.samples.filter((sample) => step === "all" || sample.step === Number(step));
  if (order !== "logged") {
    const [name, sign] = [order.slice(1), order[0] === "+" ? 1 : -1];
    shown = [...shown].sort((a, b) => sign * ((a.scores[name] ?? 0) - (b.scores[name] ?? 0)));
  }
  document.getElementById("samples").replaceChildren(
    ...shown.slice(0, 100).map((sample) => sampleElement(sample, field, scale)),
  );
  const bar = document.getElementById("scale");
  bar.style.background = `linear-gradient(90deg, ${color(-scale, scale)}, transparent, ${
    color(scale, scale)
  })`;
  bar.title = `−${format(scale)} to ${format(scale)}`;
}

function fill(id, options) {
  document.getElementById(id).append(...options.map(([value, label]) => make("option", { value }, label)));
}

// The page of a plan has none.
if (document.getElementById("charts")) {
  drawCharts();
  document.getElementById("smoothing").addEventListener("input", drawCharts);
  addEventListener("resize", drawCharts);
}
if (data.samples.length > 0) {
  const steps = [...new Set(data.samples.map((sample) => sample.step))].sort((a, b) => b - a);
  const names = (key) => [...new Set(data.samples.flatMap((sample) => Object.keys(sample[key])))];
  fill("step", [...steps.map((step) => [step, step]), ["all", "all"]]);
  fill("order", [
    ["logged", "as logged"],
    ...names("scores").flatMap((name) => [[`-${name}`, `highest ${name}`], [`+${name}`, `lowest ${name}`]]),
  ]);
  fill("field", [...names("perToken").map((name) => [name, name]), ["", "nothing"]]);
  for (const id of ["step", "order", "field"]) {
    document.getElementById(id).addEventListener("change", drawSamples);
  }
  drawSamples();
}
