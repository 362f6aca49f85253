// Draws the report's panels with Plotly from the JSON in the page. Every text that came from a file arrives
// escaped for Plotly's own markup (page/text.py, plotly_text); nothing here makes HTML from text.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("lmhead-data").textContent);
  const hidden = new Set();
  let logarithmicTokens = false;
  const markers = ["circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "x"];
  const markerOf = (arm) => markers[(arm + Math.floor(arm / markers.length)) % markers.length];
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colourOf = (arm) => style(`--arm-${arm % 8}`);
  const linesOf = (panel, arm, kind) => panel.lines.filter((line) => line.arm === arm && line.kind === kind);

  function trace(panel, line) {
    const colour = colourOf(line.arm);
    const format = panel.xkind === "tokens" ? ".4~s" : ".4~g";
    const few = line.x.length <= 40;
    const thin = line.kind === "seed" && linesOf(panel, line.arm, "seed").length > 1;
    const hasMean = linesOf(panel, line.arm, "mean").length > 0;
    const result = {
      type: "scatter", x: line.x, y: line.y, mode: few && !thin && line.kind !== "null" ? "lines+markers" : "lines",
      line: { color: colour, width: 2.25 }, marker: { symbol: markerOf(line.arm), size: 7, color: colour },
      visible: !hidden.has(line.arm), meta: [page.arms[line.arm].name, line.label],
      hovertemplate: `<b>%{meta[0]}</b> %{meta[1]}<br>%{y:.5~g} at %{x:${format}}<extra></extra>`,
    };
    if (thin) Object.assign(result, { opacity: hasMean ? 0.45 : 0.8, line: { color: colour, width: hasMean ? 1 : 1.4 } });
    if (line.kind === "raw") Object.assign(result, { opacity: 0.22, line: { color: colour, width: 1 }, hoverinfo: "skip",
                                                     hovertemplate: null, mode: "lines" });
    if (line.dashed) result.line.dash = "dash";
    if (line.kind === "null") Object.assign(result.line, { dash: "dot", width: 1.75 });
    return result;
  }

  function layout(panel, width) {
    const axis = { gridcolor: style("--grid"), linecolor: style("--rule"), zeroline: false, automargin: true,
                   ticks: "outside", tickcolor: style("--rule"), ticklen: 4 };
    const end = Math.max(0, ...panel.lines.map((line) => line.x.at(-1)));
    const logarithmic = panel.xlog || (panel.xkind === "tokens" && logarithmicTokens);
    const named = panel.ticks ? { tickvals: panel.ticks.map((_, index) => index), ticktext: panel.ticks, autorange: false,
                                  range: [-0.4, panel.ticks.length - 0.6], tickangle: -30 } : {};
    return {
      autosize: true, uirevision: String(logarithmic), showlegend: false, hovermode: "closest", dragmode: width < 480 ? false : "zoom",
      margin: { l: 58, r: labelRoom(width), t: 10, b: 50 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: style("--soft") },
      hoverlabel: { bgcolor: style("--paper"), bordercolor: style("--rule"), font: { color: style("--ink") } },
      xaxis: { ...axis, title: { text: panel.xtitle, standoff: 8 }, type: logarithmic ? "log" : "linear",
               tickformat: panel.xkind === "tokens" ? "~s" : "~g", nticks: Math.max(3, Math.floor(width / 90)), showgrid: false,
               ...(logarithmic || !end ? { autorange: true, dtick: logarithmic ? 1 : undefined }
                                       : { range: [0, 1.03 * end], autorange: false }), ...named },
      yaxis: { ...axis, title: { text: panel.ytitle, standoff: 10 }, type: panel.ylog ? "log" : "linear",
               ...(panel.ylog ? { exponentformat: "power", nticks: 5 } : { tickformat: "~g", nticks: 7 }),
               ...(panel.yrange && !logarithmic ? { range: panel.yrange, autorange: false } : { autorange: true }) },
      shapes: panel.zero ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0,
                              line: { color: style("--soft"), width: 1, dash: "dot" } }] : [],
    };
  }

  // Arms are named at the ends of their lines where the names are short enough and there is room.
  function labelRoom(width) {
    const longest = Math.max(...page.arms.map((arm) => arm.label.length));
    const fits = width >= 420 && page.arms.length > 1 && page.arms.length <= 8 && longest <= 18;
    return fits ? 14 + Math.ceil(7.2 * longest) : 14;
  }

  function endLabels(plot, panel) {
    if (plot.layout.margin.r <= 14 || panel.unlabelled) return [];
    const { range, type } = plot.layout.yaxis;
    const height = plot.clientHeight - plot.layout.margin.t - plot.layout.margin.b;
    const ends = [];
    page.arms.forEach((arm, index) => {
      if (hidden.has(index)) return;
      const means = linesOf(panel, index, "mean");
      const lines = means.length ? means : linesOf(panel, index, "seed");
      const values = lines.map((line) => line.y.filter((y) => y !== null).at(-1)).filter((y) => y !== undefined);
      if (!values.length) return;
      const mean = values.reduce((sum, y) => sum + y, 0) / values.length;
      const place = ((type === "log" ? Math.log10(mean) : mean) - range[0]) / (range[1] - range[0]);
      if (place >= -0.02 && place <= 1.02) ends.push({ index, place });
    });
    ends.sort((a, b) => a.place - b.place);
    const gap = 15 / height;
    for (let round = 0; round < 200; round++) {
      for (let i = 1; i < ends.length; i++) {
        const overlap = gap - (ends[i].place - ends[i - 1].place);
        if (overlap > 1e-6) { ends[i].place += overlap / 2; ends[i - 1].place -= overlap / 2; }
      }
      ends.forEach((end) => { end.place = Math.min(1, Math.max(0, end.place)); });
    }
    return ends.map(({ index, place }) => ({
      xref: "paper", x: 1, xanchor: "left", xshift: 6, yref: "paper", y: place, yanchor: "middle", showarrow: false,
      text: page.arms[index].label, font: { color: colourOf(index), size: 12.5 }, captureevents: false,
    }));
  }

  function draw(panel) {
    const plot = document.getElementById(panel.id);
    if (!plot) return;
    const order = { raw: 0, null: 1, seed: 2, mean: 3 };
    const lines = [...panel.lines].sort((a, b) => order[a.kind] - order[b.kind]);
    const traces = lines.map((line) => trace(panel, line));
    // No bar of buttons: it covers the lines, and one of its buttons sends the data to a server.
    const options = { displayModeBar: false, showSendToCloud: false, plotlyServerURL: "", scrollZoom: false };
    return Plotly.react(plot, traces, layout(panel, plot.clientWidth), options)
        .then(() => Plotly.relayout(plot, { annotations: endLabels(plot, panel) }))
        .then(() => {
          if (plot.dataset.listening) return;
          plot.dataset.listening = "yes";
          plot.on("plotly_relayout", (change) => {
            if (!("annotations" in change)) Plotly.relayout(plot, { annotations: endLabels(plot, panel) });
          });
        });
  }

  const drawAll = () => page.panels.forEach(draw);
  document.querySelectorAll("button[data-arm]").forEach((button) => button.addEventListener("click", () => {
    const arm = Number(button.dataset.arm);
    if (!hidden.delete(arm)) hidden.add(arm);
    button.setAttribute("aria-pressed", String(!hidden.has(arm)));
    drawAll();
  }));
  const axisButton = document.getElementById("logarithmic-tokens");
  if (axisButton) axisButton.addEventListener("click", () => {
    logarithmicTokens = !logarithmicTokens;
    axisButton.setAttribute("aria-pressed", String(logarithmicTokens));
    drawAll();
  });
  let pending = 0, drawnWidth = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === drawnWidth) return;  // a phone's address bar changes the height only
    drawnWidth = window.innerWidth;
    clearTimeout(pending);
    pending = setTimeout(drawAll, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
})();
