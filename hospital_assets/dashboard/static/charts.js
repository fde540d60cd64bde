// Draws series and funnel plots with Apache ECharts over the SVG that the server has drawn: the same
// marks with tooltips, at the width that there is. The server's drawing stays for print.
const drawn = new Map();
let loading = null;

function library() {
  loading ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = "/static/vendor/echarts/echarts.min.js";
    script.onload = () => done(globalThis.echarts);
    script.onerror = failed;
    document.head.append(script);
  });
  return loading;
}

const symbols = { usual: "circle", improving: "diamond", concern: "triangle", changed: "rect" };
const words = { usual: "usual range", improving: "improving", concern: "concern", changed: "changed" };

function colours() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue("--" + name).trim();
}

function figure(value, digits) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
}

// Round values that span a range; the same as `ticks` of svg.py.
function ticks(low, high, wanted) {
  if (high <= low) high = low + 1;
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
  return { min: Math.floor(low / step + 1e-9) * step, max: Math.ceil(high / step - 1e-9) * step, interval: step };
}

function label(text) {
  const day = /^(\d{4})-(\d{2})-(\d{2})(?:T(\d{2}:\d{2}))?$/.exec(text);
  if (!day) return text;
  const date = new Date(Date.UTC(day[1], day[2] - 1, day[3]));
  if (day[4]) return date.toLocaleDateString("en-GB", { weekday: "short", timeZone: "UTC" }) + " " + day[4];
  return date.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
}

function base(c) {
  return {
    animation: false,
    textStyle: { fontFamily: "inherit", color: c("muted") },
    tooltip: {
      confine: true, backgroundColor: c("card"), borderColor: c("rule"), padding: [6, 10],
      textStyle: { color: c("ink"), fontSize: 12 }, extraCssText: "box-shadow:0 2px 8px rgb(0 0 0/.18)",
    },
  };
}

function axis(c, more) {
  return {
    axisLine: { show: false }, axisTick: { show: false },
    axisLabel: { color: c("muted"), fontSize: 11, hideOverlap: true }, splitLine: { lineStyle: { color: c("grid") } }, ...more,
  };
}

function series(spec, c, width) {
  const colour = {
    actual: c("line"), light: c("faint"), forecast: c("improving"), step: c("faint"),
    limit: c("common"), centre: c("common"), target: c("target"), spread: c("band"), wide: c("band-wide"),
  };
  const options = [];
  for (const [i, band] of spec.bands.entries()) {
    const common = { type: "line", stack: "band" + i, symbol: "none", lineStyle: { opacity: 0 }, silent: true, tooltip: { show: false } };
    options.push({ ...common, name: band.name + " from", data: band.low });
    options.push({ ...common, name: band.name, data: band.high.map((v, at) => (v === null ? null : v - band.low[at])), areaStyle: { color: colour[band.style], opacity: 1 } });
  }
  for (const line of spec.lines) {
    options.push({
      type: "line", name: line.name, connectNulls: false, step: line.style === "step" ? "middle" : false,
      showSymbol: line.marks.length > 0, showAllSymbol: true, clip: false, symbol: "circle", symbolSize: 6,
      lineStyle: { color: colour[line.style], width: line.marks.length ? 1.2 : 1.8, type: line.style === "forecast" ? [5, 4] : "solid" },
      itemStyle: { color: colour[line.style] },
      data: line.values.map((value, at) => {
        const mark = line.marks[at];
        if (!mark) return value;
        return { value, symbol: symbols[mark], symbolSize: mark === "usual" ? 5 : 9, itemStyle: { color: c(mark === "usual" ? "common" : mark) } };
      }),
      labelLayout: { moveOverlap: "shiftY" },
      endLabel: spec.lines.length > 1 && !spec.rules.length && width > 520 && line.values.at(-1) !== null
        ? { show: true, formatter: "{a}", color: c("ink"), fontSize: 11 } : undefined,
    });
  }
  const first = options.find((o) => o.showSymbol) ?? options.at(-1);
  first.markLine = {
    symbol: "none", silent: true, animation: false,
    data: spec.rules.map((rule) => ({
      yAxis: rule.value,
      lineStyle: { color: colour[rule.style], width: rule.style === "target" ? 1.6 : 1.2, type: { limit: [5, 4], centre: "solid", target: [2, 3] }[rule.style] },
      label: { show: width > 420, position: "end", formatter: rule.name + " " + figure(rule.value, spec.digits), color: rule.style === "target" ? c("target") : c("muted"), fontSize: 11 },
    })),
  };
  const values = [...spec.rules.map((r) => r.value), ...spec.lines.flatMap((l) => l.values), ...spec.bands.flatMap((b) => [...b.low, ...b.high])].filter((v) => v !== null);
  const right = (spec.rules.length || spec.lines.length > 1) && width > 420 ? 92 : 14;
  return {
    ...base(c),
    grid: { left: 50, right, top: 14, bottom: 30 },
    xAxis: axis(c, { type: "category", data: spec.x, boundaryGap: false, splitLine: { show: false }, axisLabel: { color: c("muted"), fontSize: 11, hideOverlap: true, margin: 11, formatter: label, interval: Math.ceil(spec.x.length / Math.max(2, Math.floor(width / 90))) - 1 } }),
    yAxis: axis(c, { type: "value", ...ticks(Math.min(...values, ...(spec.zero ? [0] : [])), Math.max(...values), 5),
      axisLabel: { color: c("muted"), fontSize: 11, formatter: (v) => figure(v, Number.isInteger(v) ? 0 : Math.abs(v) < 1 ? 2 : 1) } }),
    series: options,
    tooltip: {
      ...base(c).tooltip, trigger: "axis", axisPointer: { lineStyle: { color: c("muted") } },
      formatter: (all) => {
        const at = all[0].dataIndex;
        const lines = spec.lines.filter((l) => l.values[at] !== null && l.values[at] !== undefined).map((l) => {
          const mark = l.marks[at];
          return `${escaped(l.name)}: <b>${figure(l.values[at], spec.digits)}</b> ${escaped(spec.unit)}` + (mark && spec.rules.some((r) => r.style === "limit") ? `, ${words[mark]}` : "");
        });
        const bands = spec.bands.filter((b) => b.low[at] !== null).map((b) => `${escaped(b.name)}: ${figure(b.low[at], spec.digits)} to ${figure(b.high[at], spec.digits)}`);
        return [label(spec.x[at]), ...lines, ...bands].join("<br>");
      },
    },
  };
}

function dots(spec, c) {
  const known = spec.points.filter((p) => p.low !== null).sort((a, b) => a.x - b.x);
  const xs = spec.points.map((p) => p.x);
  const ys = spec.points.flatMap((p) => [p.y, p.low, p.high]).filter((v) => v !== null);
  const of = (name) => known.map((p) => [p.x, p[name]]);
  const line = { type: "line", symbol: "none", silent: true, lineStyle: { color: c("common"), type: [5, 4], width: 1 }, tooltip: { show: false } };
  return {
    ...base(c),
    grid: { left: 50, right: 26, top: 12, bottom: 42 },
    xAxis: axis(c, { type: "value", ...ticks(Math.min(...xs), Math.max(...xs), 4), name: spec.x_name, nameLocation: "middle", nameGap: 26, nameTextStyle: { color: c("muted"), fontSize: 11 } }),
    yAxis: axis(c, { type: "value", ...ticks(Math.min(...ys), Math.max(...ys), 5) }),
    series: [
      { ...line, name: "lower", data: of("low") },
      { ...line, name: "upper", data: of("high"), markLine: { symbol: "none", silent: true, label: { show: false }, lineStyle: { color: c("common"), type: "solid" }, data: [{ yAxis: spec.centre }] } },
      { type: "scatter", data: spec.points.map((p) => ({ value: [p.x, p.y], name: p.name, symbol: p.is_outside ? "rect" : "circle", symbolSize: p.is_outside ? 8 : 6, itemStyle: { color: c(p.is_outside ? "changed" : "common") } })) },
    ],
    tooltip: { ...base(c).tooltip, trigger: "item", formatter: (p) => `${escaped(p.name)}: <b>${figure(p.value[1], 1)}</b> ${escaped(spec.unit)}<br>${escaped(spec.x_name)}: ${figure(p.value[0], 0)}` },
  };
}

function escaped(text) {
  const node = document.createElement("i");
  node.textContent = text;
  return node.innerHTML;
}

function draw(plot) {
  const spec = JSON.parse(plot.querySelector("script").textContent);
  const c = colours();
  const width = plot.clientWidth;
  return (plot.dataset.kind === "series" ? series : dots)(spec, c, width);
}

export async function upgrade(root) {
  for (const [plot, { chart, sizes }] of drawn) {
    if (!plot.isConnected) { sizes.disconnect(); chart.dispose(); drawn.delete(plot); }
  }
  const plots = [...root.querySelectorAll('.plot[data-kind="series"], .plot[data-kind="dots"]')];
  if (!plots.length) return;
  const echarts = await library();
  for (const plot of plots) {
    if (!plot.isConnected || drawn.has(plot)) continue;
    const place = document.createElement("div");
    place.className = "chart h" + plot.dataset.height;
    plot.append(place);
    plot.classList.add("upgraded");
    const chart = echarts.init(place, null, { renderer: "svg" });
    chart.setOption(draw(plot));
    const sizes = new ResizeObserver(() => { chart.resize(); chart.setOption(draw(plot), { replaceMerge: ["series"] }); });
    sizes.observe(plot);
    drawn.set(plot, { chart, sizes });
  }
}

export function redraw() {
  for (const [plot, { chart }] of drawn) chart.setOption(draw(plot), { notMerge: true });
}
