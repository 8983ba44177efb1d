"use strict";
/* Draws the charts of the report from the JSON in #day. Every colour comes from the page's CSS variables, so light, dark
   and print are one path: `drawAll` reads them and draws again. */
(() => {
  const day = JSON.parse(document.getElementById("day").textContent);
  const charts = new Map();
  let ink = {};
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const readInk = () => {
    ink = {};
    for (const n of ["paper", "card", "ink", "soft", "line", "grid", "cloud", "edge", "price", "zone", "move", "bad", "good", "shade", "shade-soft", "wash"])
      ink[n] = css("--" + n);
  };
  const [startHour, startMinute] = day.startClock.split(":").map(Number);
  const clock = (m) => {
    const t = Math.round(m) + startHour * 60 + startMinute;
    return String(Math.floor(t / 60) % 24).padStart(2, "0") + ":" + String(t % 60).padStart(2, "0");
  };
  const fmt = (v, digits) => v === null || v === undefined || Number.isNaN(v) ? "–"
    : v.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace(/,/g, "\u202f");
  const smart = (v) => fmt(v, v === null || v === undefined ? 0 : Math.abs(v) >= 100 ? 0 : Math.abs(v) >= 10 ? 1 : 2);
  const points = (at, values) => at.map((t, i) => [t, values[i]]);
  const steps = (at, values) => [...points(at, values), [1440, values[values.length - 1]]]; // means of intervals: flat until the next one
  const pct = (v) => v === null ? null : v * 100;
  const escapeHtml = (s) => String(s).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

  /* ---------- common parts of an option ---------- */
  const font = getComputedStyle(document.body).fontFamily; // labels are measured before they are drawn: name the real font
  const text = () => ({ color: ink.soft, fontFamily: font, fontSize: 12 });
  const timeAxis = (more = {}) => ({
    type: "value", min: 0, max: 1440, interval: 180, axisLabel: { ...text(), formatter: clock }, splitLine: { show: false },
    axisLine: { lineStyle: { color: ink.line } }, axisTick: { show: false }, ...more,
  });
  const valueAxis = (name, more = {}) => ({
    type: "value", name, nameTextStyle: { ...text(), align: "left", padding: [0, 0, 0, -30] }, axisLabel: text(),
    splitLine: { lineStyle: { color: ink.grid } }, axisLine: { show: false }, axisTick: { show: false }, ...more,
  });
  const tooltip = (unitOf, digits) => ({
    trigger: "axis", confine: true, backgroundColor: ink.card, borderColor: ink.line, textStyle: { color: ink.ink, fontSize: 12 },
    axisPointer: { lineStyle: { color: ink.soft, type: "dashed" } },
    formatter: (rows) => "<b>" + clock(rows[0].value[0]) + "</b>" + rows.filter((r) => r.value[1] !== null).map((r) =>
      "<br>" + r.marker + escapeHtml(r.seriesName) + " <b>" + (digits === undefined ? smart(r.value[1]) : fmt(r.value[1], digits)) + "</b> " + unitOf(r.seriesName)).join(""),
  });
  const base = (option) => ({
    animation: false, textStyle: { fontFamily: font }, aria: { enabled: true },
    legend: { top: 0, left: 0, textStyle: { ...text(), color: ink.ink }, inactiveColor: ink.line, itemWidth: 16, itemHeight: 8, icon: "roundRect" },
    grid: { left: 44, right: 16, top: 56, bottom: 28 }, ...option,
  });
  const line = (name, data, color, more = {}) => ({
    name, type: "line", data, showSymbol: false, lineStyle: { color, width: 2 }, itemStyle: { color }, connectNulls: false, ...more,
  });
  const draw = (id, option) => {
    const el = document.getElementById(id);
    if (!el) return;
    if (![].concat(option.series).some((s) => s.data.length)) { el.textContent = "Nothing of this in the log."; el.className = "note"; el.removeAttribute("style"); return; }
    let chart = charts.get(id);
    if (!chart) { chart = echarts.init(el, null, { renderer: "svg" }); charts.set(id, chart); }
    chart.setOption(base(option), { notMerge: true });
  };
  const areas = (events, withLabel) => ({
    silent: true,
    data: events.map((e) => [
      { xAxis: e.from, name: withLabel ? e.label.replace("; ", "\n") : "", itemStyle: { color: e.kind === "mark" ? ink["shade-soft"] : ink.shade },
        label: { color: e.kind === "mark" ? ink.price : ink.bad, fontSize: 11, position: "insideTop", overflow: "truncate", width: 150 } },
      { xAxis: e.until },
    ]),
  });

  /* ---------- power and iPUE ---------- */
  const total = (rows) => rows[0].map((_, t) => rows.reduce((sum, row) => row[t] === null ? sum : sum + row[t], 0));
  const totalKnown = (rows) => rows[0].map((_, t) => rows.every((row) => row[t] !== null) ? rows.reduce((s, row) => s + row[t], 0) : null);
  function power() {
    const chosen = document.getElementById("site-choice").value, p = day.power;
    const i = day.sites.findIndex((s) => s.id === chosen), all = i < 0;
    const it = all ? total(p.it) : p.it[i], facility = all ? total(p.facility) : p.facility[i];
    const forecast = all ? totalKnown(p.forecast) : p.forecast[i];
    const ipue = facility.map((f, t) => f <= 20 * it[t] && it[t] > 0 ? f / it[t] : null); // idle rooms: see IDLE_IPUE
    const site = all ? null : day.sites[i], events = day.events.filter((e) => all || e.site === chosen);
    const cap = site && (site.cap ?? site.capHourly);
    const color = site ? ink[site.kind] : ink.ink;
    const caps = cap ? { silent: true, symbol: "none", lineStyle: { color: ink.bad, type: "dashed" },
      label: { formatter: "cap " + cap.toFixed(2) + (site.cap ? " (year)" : " (hour)"), color: ink.bad, position: "insideEndTop", fontSize: 11 }, data: [{ yAxis: cap }] } : undefined;
    draw("power", {
      tooltip: { ...tooltip((n) => n === "iPUE" ? "" : "kW"), axisPointer: { link: [{ xAxisIndex: "all" }], lineStyle: { color: ink.soft, type: "dashed" } } },
      axisPointer: { link: [{ xAxisIndex: "all" }] },
      legend: { ...base({}).legend, data: ["facility power", "IT power", "forecast of facility power", "iPUE"] },
      grid: [{ left: 52, right: 16, top: 58, height: 236, outerBoundsMode: "none" }, { left: 52, right: 16, top: 340, height: 140, outerBoundsMode: "none" }],
      xAxis: [timeAxis({ gridIndex: 0, axisLabel: { show: false } }), timeAxis({ gridIndex: 1 })],
      yAxis: [valueAxis("kW", { gridIndex: 0, min: 0 }), valueAxis("iPUE", { gridIndex: 1, min: (v) => Math.floor((Math.min(v.min, cap || v.min) - 0.01) * 10) / 10, max: (v) => Math.ceil((Math.max(v.max, cap || v.max) + 0.01) * 10) / 10, splitNumber: 3, axisLabel: { ...text(), formatter: (v) => v.toFixed(2) } })],
      series: [
        line("facility power", steps(p.at, facility), color, { step: "end", areaStyle: { color, opacity: .10 }, markArea: areas(events, !all) }),
        line("IT power", steps(p.at, it), ink.soft, { step: "end", lineStyle: { color: ink.soft, width: 1.2 } }),
        line("forecast of facility power", steps(p.at, forecast), ink.price, { step: "end", lineStyle: { color: ink.price, width: 1.6, type: [4, 4] } }),
        line("iPUE", steps(p.at, ipue), color, { step: "end", xAxisIndex: 1, yAxisIndex: 1, markLine: caps, markArea: areas(events, false) }),
      ],
    });
    const note = document.getElementById("power-note");
    note.textContent = events.map((e) => (all ? e.site + " " : "") + clock(e.from) + "–" + clock(e.until) + ": " + e.label).join(" · ")
      + (site && site.forecastError !== null ? (events.length ? " · " : "") + "the hourly plans missed the metered power by " + fmt(site.forecastError * 100, 1) + " % on average" : "");
  }

  /* ---------- the map ---------- */
  function map() {
    const m = day.map, at = {};
    for (const p of [...m.sites, ...m.zones]) at[p.id] = [p.x, p.y];
    const most = Math.max(1, ...m.serves.map((f) => f[2])), mostMoves = Math.max(1, ...m.moves.map((f) => f[2]));
    const biggest = Math.max(1, ...m.sites.map((s) => s.kwh || 0));
    const byId = Object.fromEntries([...m.sites, ...m.zones].map((p) => [p.id, p]));
    const xs = [...m.sites, ...m.zones].map((p) => p.x), ys = [...m.sites, ...m.zones].map((p) => p.y);
    const el = document.getElementById("map"), margin = 1.6;
    let x0 = Math.min(...xs) - margin, x1 = Math.max(...xs) + margin, y0 = Math.min(...ys) - margin, y1 = Math.max(...ys) + margin;
    const w = el.clientWidth - 40, h = el.clientHeight - 76, scale = Math.max((x1 - x0) / w, (y1 - y0) / h);
    const padX = (scale * w - (x1 - x0)) / 2, padY = (scale * h - (y1 - y0)) / 2;
    x0 -= padX; x1 += padX; y0 -= padY; y1 += padY;
    /* Labels go where they hide least: of four sides, the one that touches the fewest circles and labels so far. */
    const px = (p) => [(p.x - x0) / scale, (y1 - p.y) / scale];
    const size = (p) => p.kwh === undefined ? 11 : 12 + 30 * Math.sqrt((p.kwh || 0) / biggest);
    const words = (p) => p.name + (p.far ? "\n" + fmt(p.far, 0) + " km away" : "");
    const everyone = [...m.sites, ...m.zones], taken = everyone.map((p) => { const [x, y] = px(p), r = size(p) / 2; return [x - r, y - r, x + r, y + r]; });
    const hit = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
    const side = {};
    const crowded = new Set(m.zones.filter((z) => m.sites.some((s) => Math.hypot(s.x - z.x, s.y - z.y) < 24 * scale)).map((z) => z.id)); // its site's label says enough
    for (const p of everyone.filter((q) => !crowded.has(q.id))) {
      const [x, y] = px(p), r = size(p) / 2 + 4, lines = words(p).split("\n"), w = 6.6 * Math.max(...lines.map((l) => l.length)), h = 14 * lines.length;
      const boxes = { top: [x - w / 2, y - r - h, x + w / 2, y - r], bottom: [x - w / 2, y + r, x + w / 2, y + r + h], right: [x + r, y - h / 2, x + r + w, y + h / 2], left: [x - r - w, y - h / 2, x - r, y + h / 2] };
      const cost = (k) => taken.reduce((sum, b) => sum + hit(boxes[k], b), 0);
      side[p.id] = Object.keys(boxes).reduce((best, k) => cost(k) < cost(best) ? k : best);
      taken.push(boxes[side[p.id]]);
    }
    const label = (p, color) => ({ show: true, position: side[p.id], distance: 5, formatter: words(p), color, fontSize: 11, lineHeight: 14, fontFamily: font, textBorderColor: ink.card, textBorderWidth: 3 });
    const rim = (a, b) => { // where an arrow from a to b meets the circle of b, so that its head is seen
      const [xa, ya] = at[a], [xb, yb] = at[b], d = Math.hypot(xb - xa, yb - ya) || 1, back = Math.min((size(byId[b]) / 2 + 2) * scale, d / 2);
      return [xb - (xb - xa) / d * back, yb - (yb - ya) / d * back];
    };
    const siteSeries = (kind) => ({
      name: kind + " site", type: "scatter", z: 4, itemStyle: { color: ink[kind], borderColor: ink.card, borderWidth: 2, opacity: .92 },
      data: m.sites.filter((s) => s.kind === kind).map((s) => ({
        name: s.id, value: [s.x, s.y], symbolSize: size(s), itemStyle: s.down ? { borderColor: ink.bad, borderWidth: 3 } : undefined, label: label(s, ink.ink),
      })),
    });
    draw("map", {
      grid: { left: 20, right: 20, top: 40, bottom: 36 },
      legend: { ...base({}).legend, data: ["cloud site", "edge site", "zone", "serves users", "move"] },
      tooltip: {
        confine: true, backgroundColor: ink.card, borderColor: ink.line, textStyle: { color: ink.ink, fontSize: 12 },
        formatter: (r) => {
          if (r.seriesType === "lines") return escapeHtml(r.data.said);
          const p = byId[r.name]; if (!p) return "";
          const served = m.serves.filter((f) => f[0] === p.id || f[1] === p.id).map((f) => "<br>" + escapeHtml(f[0] === p.id ? byId[f[1]].name : byId[f[0]].name) + " <b>" + f[2] + "</b>");
          return "<b>" + escapeHtml(p.name) + "</b> " + escapeHtml(p.zh || "") + (p.kwh !== undefined ? "<br>" + smart(p.kwh) + " kWh of facility energy" : "") + (p.down ? "<br>was down for part of the day" : "") + (served.length ? "<br>placements that serve zones:" + served.join("") : "");
        },
      },
      xAxis: { type: "value", min: x0, max: x1, show: false }, yAxis: { type: "value", min: y0, max: y1, show: false },
      series: [
        { name: "serves users", type: "lines", coordinateSystem: "cartesian2d", z: 1, color: ink.zone, lineStyle: { color: ink.zone }, itemStyle: { color: ink.zone }, data: m.serves.map(([z, s, n]) => ({
          coords: [at[z], at[s]], said: byId[z].name + " ← " + byId[s].name + ": " + n + " placements",
          lineStyle: { color: ink.zone, width: 1 + 5 * Math.sqrt(n / most), opacity: .15 + .4 * n / most, curveness: .12 } })) },
        { name: "move", type: "lines", coordinateSystem: "cartesian2d", z: 3, symbol: ["none", "arrow"], symbolSize: 9, color: ink.move, lineStyle: { color: ink.move }, itemStyle: { color: ink.move }, data: m.moves.map(([a, b, n]) => ({
          coords: [at[a], rim(a, b)], said: n + (n === 1 ? " move from " : " moves from ") + byId[a].name + " to " + byId[b].name,
          lineStyle: { color: ink.move, width: 1.5 + 2.5 * Math.sqrt(n / mostMoves), opacity: .9, curveness: .28 } })) },
        { name: "zone", type: "scatter", symbol: "diamond", symbolSize: 11, z: 2, itemStyle: { color: ink.card, borderColor: ink.zone, borderWidth: 2 },
          data: m.zones.map((z) => ({ name: z.id, value: [z.x, z.y], label: crowded.has(z.id) ? undefined : label(z, ink.soft) })) },
        siteSeries("edge"), siteSeries("cloud"),
        { type: "line", symbol: "none", silent: true, data: [[x0 + scale * 6, y0 + scale * 6], [x0 + scale * 6 + 2, y0 + scale * 6]], lineStyle: { color: ink.soft, width: 2 },
          endLabel: { show: true, formatter: "2 km", color: ink.soft, fontSize: 11 } },
      ],
    });
  }

  /* ---------- the simpler ones ---------- */
  const prices = () => draw("prices", {
    tooltip: tooltip((n) => n === "outdoor air" ? "°C" : "yuan/kWh"), xAxis: timeAxis(),
    yAxis: [valueAxis("yuan/kWh", { min: 0 }), valueAxis("°C", { scale: true, position: "right", splitLine: { show: false }, nameTextStyle: { ...text(), align: "right" } })],
    grid: { left: 44, right: 40, top: 56, bottom: 28 },
    series: [...day.prices.map((p, i) => line(p.name, steps(day.power.at, p.price), [ink.price, ink.move, ink.cloud, ink.edge][i % 4], { step: "end" })),
      line("outdoor air", points(day.power.at, day.power.dryBulb), ink.soft, { yAxisIndex: 1, lineStyle: { color: ink.soft, width: 1.4, type: "dotted" } })],
  });
  const queue = () => draw("queue", {
    tooltip: tooltip(() => "workloads", 0), xAxis: timeAxis(), yAxis: valueAxis("workloads", { min: 0, minInterval: 1 }),
    series: [line("running", points(day.queue.at, day.queue.running), ink.edge), line("planned for a cheaper hour", points(day.queue.at, day.queue.planned), ink.price), line("starting", points(day.queue.at, day.queue.starting), ink.cloud, { lineStyle: { color: ink.cloud, width: 1 } }),
      line("pending", points(day.queue.at, day.queue.pending), ink.bad, { areaStyle: { color: ink.bad, opacity: .12 } })],
  });
  const gpus = () => draw("gpus", {
    tooltip: { ...tooltip(() => "%", 1) }, xAxis: timeAxis(), yAxis: valueAxis("% of installed GPUs", { min: 0, max: 100 }),
    series: ["cloud", "edge"].filter((k) => day.gpus.installed[k] > 0).map((k) =>
      line(k + " (" + fmt(day.gpus.installed[k], 0) + " GPUs)", points(day.gpus.at, day.gpus[k].map((v) => 100 * v / day.gpus.installed[k])), ink[k], { areaStyle: { color: ink[k], opacity: .10 } })),
  });
  const bars = (rows, colorOf) => rows.map((r) => ({ value: r.value, itemStyle: { color: colorOf(r), borderRadius: 3 } }));
  const categories = (names) => ({ type: "category", inverse: true, data: names, axisLabel: { ...text(), color: ink.ink, interval: 0, width: 150, overflow: "truncate" }, axisLine: { show: false }, axisTick: { show: false } });
  const itemTip = (say) => ({ trigger: "item", confine: true, backgroundColor: ink.card, borderColor: ink.line, textStyle: { color: ink.ink, fontSize: 12 }, formatter: say });
  const waits = () => draw("waits", {
    tooltip: itemTip((r) => escapeHtml(day.waits[r.dataIndex].label) + "<br>" + r.seriesName + " <b>" + smart(r.value / 60) + " min</b>"),
    grid: { left: 60, right: 24, top: 40, bottom: 40 },
    xAxis: { ...valueAxis(""), type: "log", min: 1, name: "seconds from due to running (log scale)", nameLocation: "middle", nameGap: 26, nameTextStyle: text() },
    yAxis: categories(day.waits.map((w) => w.name)),
    series: [["half ran within", "p50", .45], ["90 % ran within", "p90", 1]].map(([name, key, opacity]) => ({ name, type: "bar", barGap: "15%", itemStyle: { color: ink.cloud, opacity, borderRadius: 3 }, data: day.waits.map((w) => Math.max(w[key], 1)) })),
  });
  const latency = () => {
    const cells = day.latency.flatMap((c, y) => c.hours.map((v, h) => [h, y, v === null ? null : 100 * v / c.budget])).filter((c) => c[2] !== null);
    draw("latency", cells.length ? {
      tooltip: itemTip((r) => { const c = day.latency[r.value[1]]; return escapeHtml(c.label) + "<br>" + clock(r.value[0] * 60) + " p99 <b>" + fmt(c.hours[r.value[0]], 1) + " ms</b> of " + fmt(c.budget, 0) + " ms"; }),
      legend: { show: false }, grid: { left: 60, right: 16, top: 16, bottom: 70 },
      xAxis: { type: "category", data: [...Array(24).keys()].map((h) => clock(h * 60)), axisLabel: { ...text(), interval: 2 }, axisLine: { show: false }, axisTick: { show: false } },
      yAxis: categories(day.latency.map((c) => c.name)),
      visualMap: { type: "piecewise", orient: "horizontal", left: "center", bottom: 4, itemWidth: 14, itemHeight: 10, itemGap: 18, textStyle: text(), pieces: [
        { lt: 50, label: "under half of the budget", color: ink.edge, colorAlpha: .3 }, { gte: 50, lt: 80, label: "to 80 %", color: ink.edge, colorAlpha: .6 },
        { gte: 80, lte: 100, label: "to 100 %", color: ink.edge }, { gt: 100, label: "outside", color: ink.bad }] },
      series: [{ type: "heatmap", data: cells, itemStyle: { borderColor: ink.card, borderWidth: 2, borderRadius: 3 }, label: { show: false } }],
    } : {
      tooltip: itemTip((r) => escapeHtml(day.latency[r.dataIndex].label) + "<br>p99 <b>" + fmt(day.latency[r.dataIndex].p99, 1) + " ms</b>"), legend: { show: false },
      grid: { left: 60, right: 24, top: 16, bottom: 40 }, xAxis: valueAxis("p99 RTT, % of budget", { nameLocation: "middle", nameGap: 26, nameTextStyle: text() }), yAxis: categories(day.latency.map((c) => c.name)),
      series: [{ type: "bar", data: bars(day.latency.map((c) => ({ value: 100 * c.p99 / c.budget })), (r) => r.value > 100 ? ink.bad : ink.edge), markLine: { silent: true, symbol: "none", lineStyle: { color: ink.bad }, label: { show: false }, data: [{ xAxis: 100 }] } }],
    });
  };
  const learned = () => draw("learned", {
    tooltip: tooltip(() => "%", 1), xAxis: timeAxis(), yAxis: valueAxis("% of facility power", { min: 0 }),
    legend: { ...base({}).legend, type: "scroll", right: 0 },
    series: day.sites.map((s, i) => line(s.id, points(day.learned.at, day.learned.error[i].map(pct)), ink[s.kind], {
      showSymbol: day.learned.at.length < 4, lineStyle: { color: ink[s.kind], width: 1.3, opacity: .75 }, emphasis: { focus: "series", lineStyle: { width: 3 } },
      markLine: i ? undefined : { silent: true, symbol: "none", lineStyle: { color: ink.good, type: "dashed" }, label: { formatter: "goal " + fmt(day.learned.goal * 100, 0) + " %", color: ink.good, position: "insideEndTop" }, data: [{ yAxis: day.learned.goal * 100 }] },
    })),
  });
  const ledger = () => draw("ledger", {
    tooltip: itemTip((r) => escapeHtml(day.ledger[r.dataIndex].name) + "<br>room left <b>" + fmt(r.value, 1) + " %</b> of the day's facility energy"), legend: { show: false },
    grid: { left: 120, right: 44, top: 8, bottom: 40 }, xAxis: valueAxis("room left under the cap, % of the day's facility energy", { nameLocation: "middle", nameGap: 26, nameTextStyle: text() }),
    yAxis: categories(day.ledger.map((s) => s.name)),
    series: [{ type: "bar", barMaxWidth: 16, data: bars(day.ledger.map((s) => ({ value: pct(s.room), held: s.held })), (r) => r.held ? ink.good : ink.bad), label: { show: true, position: "right", color: ink.soft, fontSize: 11, formatter: (r) => fmt(r.value, 1) } }],
  });
  const comparison = () => {
    const names = day.comparison.map((r) => r.policy);
    const panels = [["yuan per GPU-hour", (r) => r.yuanPerGpuH, 3], ["facility energy, MWh", (r) => r.mwh, 2], ["caps held of " + day.comparison[0].caps, (r) => r.capsHeld, 0]];
    draw("comparison", {
      legend: { show: false }, tooltip: itemTip((r) => escapeHtml(names[r.dataIndex]) + "<br>" + panels[r.seriesIndex][0] + " <b>" + fmt(r.value, panels[r.seriesIndex][2]) + "</b>"),
      title: panels.map((p, i) => ({ text: p[0], left: 16 + i * 28 + "%", top: 0, textStyle: { ...text(), fontWeight: 500, color: ink.ink } })),
      grid: panels.map((_, i) => ({ left: 16 + i * 28 + "%", width: "22%", top: 30, bottom: 12 })),
      xAxis: panels.map((_, i) => ({ gridIndex: i, type: "value", min: 0, show: false })),
      yAxis: panels.map((_, i) => ({ ...categories(names), gridIndex: i, axisLabel: { show: i === 0, color: ink.ink, fontSize: 12, width: 140, overflow: "break" } })),
      series: panels.map((p, i) => ({ type: "bar", xAxisIndex: i, yAxisIndex: i, barMaxWidth: 20, data: day.comparison.map((r, k) => ({ value: p[1](r), itemStyle: { color: k ? ink.zone : ink.cloud, borderRadius: 3 } })),
        label: { show: true, position: "right", color: ink.ink, fontSize: 11, formatter: (r) => fmt(r.value, p[2]) } })),
    });
  };
  const moves = () => draw("moves", {
    legend: { show: false }, tooltip: itemTip((r) => r.name + ": <b>" + r.value + "</b> moves"), grid: { left: 100, right: 44, top: 8, bottom: 12 },
    xAxis: { type: "value", show: false, min: 0 }, yAxis: categories(day.moves.map((m) => m.mode)),
    series: [{ type: "bar", barMaxWidth: 22, data: day.moves.map((m) => ({ value: m.count, itemStyle: { color: ink.move, borderRadius: 3 } })), label: { show: true, position: "right", color: ink.ink } }],
  });
  const gaps = () => {
    const scopes = [...new Set(day.plans.flatMap((p) => Object.keys(p.gaps)))];
    draw("gaps", {
      tooltip: tooltip(() => "%", 2), xAxis: timeAxis(), yAxis: valueAxis("% between plan and bound", { min: 0 }),
      series: scopes.map((s) => line(s === "fleet" ? "whole fleet" : s, day.plans.filter((p) => s in p.gaps).map((p) => [p.at, pct(p.gaps[s])]), s === "edge" ? ink.edge : ink.cloud, { showSymbol: true, symbolSize: 5, lineStyle: { color: s === "edge" ? ink.edge : ink.cloud, width: 1.5 } })),
    });
  };

  function drawAll() {
    readInk();
    for (const one of [map, power, prices, queue, waits, latency, gpus, learned, ledger, comparison, moves, gaps]) one();
    document.documentElement.dataset.drawn = String(charts.size);
  }
  const redraw = () => { for (const c of charts.values()) c.dispose(); charts.clear(); drawAll(); };

  document.getElementById("site-choice").addEventListener("change", power);
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 120); });
  addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; redraw(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.theme; redraw(); });
  drawAll();
})();
