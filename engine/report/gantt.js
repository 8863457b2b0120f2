// Draws the timeline of the newest steps: one row a device, one colour a call. Follows page.js, whose helpers it uses.

/** Colours in style.css, --call-0 and so on; with more calls they come again. */
const CALL_COLOURS = 10;
const ROW = 26, BAR = 20, MARK = 8;

/** 1234.5 → "1.23 s", 12.34 → "12.3 ms". */
const span = (ms) => ms >= 1000 ? `${format(ms / 1000)} s` : `${format(ms)} ms`;

/** "1.5 MiB". */
function size(bytes) {
  const unit = Math.min(4, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${format(bytes / 1024 ** unit)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

/** Share of the range that a row's calls and reallocations fill, which do not overlap; transfers go on beside them. */
const busyShare = (blocks, [from, to]) =>
  blocks.filter((b) => b.lane !== "transfer").reduce(
    (sum, b) => sum + Math.max(0, Math.min(b.end, to) - Math.max(b.begin, from)),
    0,
  ) /
  (to - from);

/** Successive blocks of one name and step as one, where the gap between them is less than `gap`; transfers on top, by themselves. */
const joined = (blocks, gap) => [
  ...joinedAlike(blocks.filter((b) => b.lane !== "transfer"), gap),
  ...joinedAlike(blocks.filter((b) => b.lane === "transfer"), gap),
];

function joinedAlike(blocks, gap) {
  const out = [];
  for (const block of blocks) {
    const last = out.at(-1);
    const same = last && last.name === block.name && last.lane === block.lane && last.step === block.step;
    if (!same || block.begin - last.end >= gap) {
      out.push({ ...block });
      continue;
    }
    last.end = block.end;
    if (last.detail !== block.detail) last.detail = undefined;
    if (last.bytes !== undefined) last.bytes += block.bytes ?? 0;
  }
  return out;
}

/** From the first to the last block of every call of every step of a row: where it waits, it is still at work. */
function extents(blocks) {
  const out = new Map();
  for (const block of blocks.filter((b) => b.lane === "call")) {
    const key = `${block.step} ${block.name}`, known = out.get(key);
    if (known) known.end = Math.max(known.end, block.end);
    else out.set(key, { ...block });
  }
  return [...out.values()];
}

function gantt({ steps, rows }) {
  const end = Math.max(...steps.map((s) => s.end));
  const blocks = rows.flatMap((row) => row.blocks);
  const inOrder = blocks.filter((b) => b.lane === "call").sort((a, b) => a.begin - b.begin);
  const calls = [...new Set(inOrder.map((b) => b.name))];
  const colour = (block) =>
    block.lane === "call"
      ? `var(--call-${calls.indexOf(block.name) % CALL_COLOURS})`
      : `var(--${block.lane})`;
  const box = document.getElementById("gantt"), tip = make("div", { class: "tip", hidden: "" });
  const legend = make("div", { class: "legend" }), place = make("div");
  let view = [0, end];

  const keys = [
    ...calls.map((name) => ({ name, lane: "call" })),
    ...["reallocation", "transfer"].filter((lane) => blocks.some((b) => b.lane === lane))
      .map((lane) => ({ name: lane, lane })),
  ];
  for (const key of keys) {
    const mark = make("b", { class: key.lane });
    mark.style.background = colour(key);
    const entry = make("span", {}, mark, key.name);
    const dim = (on) => {
      for (const bar of place.querySelectorAll(".bar")) {
        const own = key.lane === "call" ? bar.dataset.name === key.name : bar.dataset.lane === key.lane;
        bar.classList.toggle("dim", on && !own);
      }
    };
    entry.addEventListener("pointerenter", () => dim(true));
    entry.addEventListener("pointerleave", () => dim(false));
    legend.append(entry);
  }

  function describe(row, block) {
    const lines = [
      make("b", {}, block.name),
      block.detail ?? "",
      `${row.label}, step ${block.step}`,
      `${span(block.end - block.begin)} from ${span(block.begin)} on`,
      block.bytes === undefined
        ? ""
        : `${size(block.bytes)}, ${format(block.bytes / (block.end - block.begin) / 1e6)} GB/s`,
    ].filter((line) => line !== "");
    return lines.map((line) => make("div", {}, line));
  }

  function draw() {
    const width = Math.max(320, box.clientWidth - 32), narrow = width < 600;
    const left = narrow ? 64 : 84, right = 46, top = 24, bottom = 24;
    const height = top + rows.length * ROW + bottom, [from, to] = view;
    const x = (ms) => left + (ms - from) / (to - from) * (width - left - right);
    const svg = make("svg:svg", {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `Timeline of ${steps.length === 1 ? "step" : "steps"} ${
        steps.map((s) => s.step).join(", ")
      } on ${rows.length} rows`,
    });
    const clip = make("svg:clipPath", { id: "gantt-area" });
    clip.append(make("svg:rect", { x: left, y: 0, width: width - left - right, height }));
    svg.append(clip);

    const seconds = to - from >= 10_000, unit = seconds ? 1000 : 1;
    for (const tick of ticks(from / unit, to / unit, Math.max(2, Math.floor(width / 130)))) {
      const at = x(tick * unit);
      svg.append(
        make("svg:line", { class: "grid", x1: at, x2: at, y1: top - 4, y2: height - bottom }),
        make("svg:text", { x: at, y: height - 6, "text-anchor": "middle" }, format(tick)),
      );
    }
    svg.append(make("svg:text", { x: width - right + 8, y: height - 6 }, seconds ? "s" : "ms"));

    const area = make("svg:g", { "clip-path": "url(#gantt-area)" });
    for (const { step, begin } of steps.filter((s) => s.end > from)) {
      area.append(
        make("svg:line", { class: "step", x1: x(begin), x2: x(begin), y1: 2, y2: height - bottom }),
        make("svg:text", { x: Math.max(left, x(begin)) + 5, y: 12 }, `step ${step}`),
      );
    }
    rows.forEach((row, i) => {
      const y = top + i * ROW, middle = y + ROW / 2;
      const share = Math.round(100 * busyShare(row.blocks, view));
      svg.append(
        make("svg:text", { x: left - 8, y: middle + 4, "text-anchor": "end" }, row.label),
        make("svg:text", { x: width - 2, y: middle + 4, "text-anchor": "end" }, `${share} %`),
        make("svg:line", { class: "lane", x1: left, x2: width - right, y1: middle, y2: middle }),
      );
      for (const extent of extents(row.blocks)) {
        const start = x(extent.begin), wide = Math.max(1, x(extent.end) - start);
        const band = make("svg:rect", {
          class: "extent",
          x: start,
          y: middle - BAR / 2,
          width: wide,
          height: BAR,
          rx: 3,
        });
        band.style.fill = colour(extent);
        area.append(band);
      }
      const shown = row.blocks.filter((block) => block.end >= from && block.begin <= to);
      for (const block of joined(shown, 1.5 * (to - from) / (width - left - right))) {
        const thin = block.lane !== "call", tall = thin ? MARK : BAR;
        const start = x(block.begin), wide = Math.max(thin ? 2 : 1, x(block.end) - start);
        const bar = make("svg:rect", {
          class: block.predicted ? "bar predicted" : "bar",
          x: start.toFixed(2),
          y: middle - tall / 2,
          width: wide.toFixed(2),
          height: tall,
          rx: Math.min(3, wide / 3).toFixed(2),
        });
        bar.style.fill = colour(block);
        if (block.predicted) bar.style.stroke = colour(block);
        Object.assign(bar.dataset, { name: block.name, lane: block.lane });
        bar.addEventListener("pointermove", (event) => {
          tip.replaceChildren(...describe(row, block));
          tip.hidden = false;
          const frame = box.getBoundingClientRect(), at = event.clientX - frame.left;
          tip.style.left = `${Math.min(at + 14, frame.width - tip.offsetWidth - 8)}px`;
          tip.style.top = `${event.clientY - frame.top + 18}px`;
        });
        bar.addEventListener("pointerleave", () => tip.hidden = true);
        area.append(bar);
        // Seven pixels a letter: a name that does not fit says nothing.
        const seen = [Math.max(start, left), Math.min(start + wide, width - right)];
        if (!thin && seen[1] - seen[0] > block.name.length * 7 + 8) {
          const at = (seen[0] + seen[1]) / 2;
          area.append(
            make("svg:text", {
              class: block.predicted ? "name predicted" : "name",
              x: at,
              y: middle + 4,
              "text-anchor": "middle",
            }, block.name),
          );
        }
      }
    });
    svg.append(area);
    zoomable(svg, { left, right, width, top, bottom: height - bottom, from, to });
    place.replaceChildren(svg);
  }

  /** A drag shows only the range that it spans; a double click shows everything again. */
  function zoomable(svg, { left, right, width, top, bottom, from, to }) {
    const scale = () => width / svg.getBoundingClientRect().width;
    const at = (event) => {
      const pixel = (event.clientX - svg.getBoundingClientRect().left) * scale();
      return Math.min(width - right, Math.max(left, pixel));
    };
    const time = (pixel) => from + (pixel - left) / (width - left - right) * (to - from);
    let begun = null;
    const shade = make("svg:rect", { class: "shade", y: top, height: bottom - top, visibility: "hidden" });
    svg.append(shade);
    svg.addEventListener("pointerdown", (event) => begun = at(event));
    svg.addEventListener("pointermove", (event) => {
      if (begun === null) return;
      const now = at(event);
      shade.setAttribute("x", Math.min(begun, now));
      shade.setAttribute("width", Math.abs(now - begun));
      shade.setAttribute("visibility", "visible");
    });
    svg.addEventListener("pointerleave", () => {
      begun = null;
      shade.setAttribute("visibility", "hidden");
    });
    svg.addEventListener("pointerup", (event) => {
      const range = begun === null ? [] : [time(begun), time(at(event))].sort((a, b) => a - b);
      const pixels = begun === null ? 0 : Math.abs(at(event) - begun);
      begun = null;
      if (pixels < 4) return;
      view = range;
      draw();
    });
    svg.addEventListener("dblclick", () => {
      view = [0, end];
      draw();
    });
  }

  box.append(place, legend, tip);
  draw();
  addEventListener("resize", draw);
}

if (data.gantt) gantt(data.gantt);
