// Sliders for the curriculum: draws d(t) and k(t) and shows what the run saves, as predicted from operations.
"use strict";

function scheduleExplorer(data, root) {
  // Size of the picture; where its two panels stand, and the names of its three curves.
  const WIDE = { width: 720, height: 276, panels: [[48, 0], [410, 0]], legend: [[48, 267], [330, 267], [500, 267]] };
  const SLIM = { width: 360, height: 560, panels: [[48, 0], [48, 246]], legend: [[48, 510], [48, 530], [48, 550]] };
  /** With so many decimals, or as many as it has if they are more. */
  const rounded = (value, decimals) => (Number(value.toFixed(decimals)) === value ? value.toFixed(decimals) : String(value));
  const hundredths = (value) => rounded(value, 2);
  const controls = {
    drop_init: ["d_init: first drop ratio", { min: 0, max: data.maxRatio, step: 0.01, show: hundredths }],
    drop_final: ["d_final: last drop ratio", { min: 0, max: data.maxRatio, step: 0.01, show: hundredths }],
    drop_start: ["t_s: rise begins (epoch)", { min: 0, max: data.maxEpochs, step: 1 }],
    drop_end: ["t_e: rise ends (epoch)", { min: 0, max: data.maxEpochs, step: 1 }],
    drop_gamma: ["gamma: its exponent", { min: 0.1, max: 6, step: 0.1, show: (value) => rounded(value, 1) }],
    drop_block: ["block that drops tokens", { min: 0, max: data.costs.length - 1, step: 1 }],
    epochs: ["epochs of the run", { min: 1, max: data.maxEpochs, step: 1 }],
  };
  for (const [name, [label, range]] of Object.entries(controls)) {
    controls[name] = slider(name, label, { ...range, value: data.settings[name] }, () => update(name));
  }
  const picture = shape("svg", { role: "img", class: "picture" });
  const summary = make("p", { id: "summary", "aria-live": "polite" });
  const yaml = make("textarea", { id: "yaml", readonly: "", rows: 9, "aria-label": "these settings as YAML" });
  const copied = make("span", { id: "copied", "aria-live": "polite" });
  const asRun = data.leftOut.length === 0;
  if (!asRun) {
    const names = data.leftOut.join(", ");
    root.append(make("p", { id: "left-out" }, `This run also has ${names}, without sliders: all below is without them.`));
  }
  root.append(
    make("div", { class: "controls" }, ...Object.values(controls).map((control) => control.element)),
    summary,
    picture,
    make(
      "div",
      { class: "buttons" },
      button("copy-yaml", "copy as YAML", copy),
      copied,
      ...saveButtons(picture, () => "drop_schedule"),
      button("reset", asRun ? "back to this run" : "back to the start", reset),
    ),
    make("details", {}, make("summary", {}, "the settings as YAML, for papermill -f"), yaml),
  );

  function settings() {
    const values = Object.entries(controls).map(([name, control]) => [name, control.value]);
    return { ...data.settings, ...Object.fromEntries(values) };
  }

  function update(moved) {
    // The window cannot end before it starts: a slider that moves pushes the other with it.
    if (moved === "drop_start" && controls.drop_end.value < controls.drop_start.value)
      controls.drop_end.value = controls.drop_start.value;
    if (moved === "drop_end" && controls.drop_start.value > controls.drop_end.value)
      controls.drop_start.value = controls.drop_end.value;
    timed(draw);
  }

  function draw() {
    const chosen = settings();
    const run = runOfSchedule(chosen, data);
    const saved = 1 - run.withDrop / run.without;
    const faster = run.without / run.withDrop;
    const last = run.kept[chosen.epochs - 1];
    summary.textContent =
      `${(100 * saved).toFixed(1)} % of the run's training operations saved: ` +
      `${faster.toFixed(3)}x faster, predicted from operations. ` +
      `Patch tokens kept: ${run.kept[0]} in the first epoch, ${last} in the last, of ${data.patchTokens}.`;
    const own = runOfSchedule(data.settings, data);
    const published = runOfSchedule({ ...data.settings, ...data.published }, data);
    const lines = [
      { label: `published, its ${data.published.epochs} epochs scaled`, class: "published", ...published },
      { label: asRun ? "this run's recipe" : "the sliders' start", class: "own", ...own },
      { label: "sliders", class: "chosen", ...run },
    ];
    const place = isNarrow(root) ? SLIM : WIDE;
    const highest = Math.max(0.4, chosen.drop_init, chosen.drop_final, ...own.ratios) + 0.05;
    const [first, second] = place.panels;
    const keptTitle = `kept patch tokens k(t) of ${data.patchTokens}`;
    picture.setAttribute("viewBox", `0 0 ${place.width} ${place.height}`);
    picture.replaceChildren(
      ...panel(first, lines, "ratios", chosen.epochs, highest, "drop ratio d(t)"),
      ...panel(second, lines, "kept", chosen.epochs, 1.08 * data.patchTokens, keptTitle),
      ...legend(lines, place.legend),
    );
    picture.setAttribute("aria-label", `Drop ratio and kept tokens over the epochs. ${summary.textContent}`);
    picture.dataset.kept = run.kept.join(" ");
    yaml.value = yamlOf(chosen);
    copied.textContent = "";
  }

  /** One pair of axes at a corner, with a step line for each curve; each spans its own number of epochs. */
  function panel([left, above], lines, quantity, epochs, highest, title) {
    const [width, top, bottom] = [290, above + 34, above + 222];
    const y = (value) => bottom - ((bottom - top) * value) / highest;
    const marks = [shape("text", { x: left, y: above + 18, class: "title" }, title)];
    for (const value of ticks(highest)) {
      marks.push(shape("line", { x1: left, x2: left + width, y1: y(value), y2: y(value), class: "grid" }));
      marks.push(shape("text", { x: left - 6, y: y(value) + 4, class: "tick", "text-anchor": "end" }, label(value)));
    }
    for (const value of ticks(epochs).filter(Number.isInteger)) {
      const x = left + (width * value) / epochs;
      marks.push(shape("text", { x, y: bottom + 16, class: "tick", "text-anchor": "middle" }, value));
    }
    marks.push(shape("path", { d: `M${left} ${top}V${bottom}H${left + width}`, class: "axis" }));
    marks.push(shape("text", { x: left + width, y: bottom + 32, class: "tick", "text-anchor": "end" }, "epoch t"));
    for (const line of lines) {
      const values = line[quantity];
      const step = width / values.length;
      const path = values.map((value, epoch) => `${epoch ? "V" : `M${left} `}${y(value).toFixed(2)}h${step.toFixed(4)}`);
      marks.push(shape("path", { d: path.join(""), class: `curve ${line.class}`, "data-quantity": quantity }));
    }
    const final = lines.at(-1)[quantity].at(-1);
    marks.push(
      shape(
        "text",
        { x: left + width - 4, y: y(final) + (quantity === "kept" && y(final) < bottom - 24 ? 16 : -6), class: "value", "text-anchor": "end" },
        quantity === "kept" ? final : label(Number(final.toFixed(4))),
      ),
    );
    return marks;
  }

  function legend(lines, places) {
    return lines.flatMap((line, number) => {
      const [x, y] = places[number];
      return [
        shape("path", { d: `M${x} ${y}h26`, class: `curve ${line.class}` }),
        shape("text", { x: x + 32, y: y + 4, class: "tick" }, line.label),
      ];
    });
  }

  /** Round values from 0 up to `highest`, about five of them. */
  function ticks(highest) {
    const rough = highest / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) * power;
    return Array.from({ length: Math.floor(highest / step + 1e-9) + 1 }, (_, number) => Number((number * step).toPrecision(6)));
  }

  function label(value) {
    return String(Number(value.toPrecision(4)));
  }

  /** The whole recipe, but for places such as the data's, which are another machine's. */
  function yamlOf(chosen) {
    const decimals = { drop_init: 2, drop_final: 2, drop_gamma: 1 };
    const lines = data.recipe.map(([name, text]) => {
      if (!(name in controls)) return `${name}: ${text}`;
      return `${name}: ${name in decimals ? rounded(chosen[name], decimals[name]) : chosen[name]}`;
    });
    return `# from the schedule explorer\n${lines.join("\n")}\n`;
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(yaml.value);
      copied.textContent = "copied";
    } catch {
      yaml.parentElement.open = true; // the browser keeps its clipboard: select the text for the reader's own copy
      yaml.select();
      copied.textContent = document.execCommand("copy") ? "copied" : "selected: press Ctrl+C";
    }
  }

  function reset() {
    for (const [name, control] of Object.entries(controls)) control.value = data.settings[name];
    timed(draw);
  }

  timed(draw);
  watchWidth(root, () => timed(draw));
}
