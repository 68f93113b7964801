// Saliency of test images: choose image, block, head and drop ratio; draws image, map and kept tokens.
"use strict";

function saliencyExplorer(data, root) {
  // Widths of the picture and of its panels; where they stand in a row, from the end of its heading.
  const WIDE = { width: 720, panel: 190, photo: [4, 0], map: [218, 0], kept: [502, 0], row: 206 };
  const SLIM = { width: 360, panel: 168, photo: [4, 0], map: [4, 194], kept: [188, 0], row: 378 };
  const tokens = data.grid * data.grid;
  const state = { image: 0, keep: null };
  const views = data.views.map(unpackView);
  const objects = data.objects && unpack(data.objects, Uint16Array);

  const search = make("input", { type: "search", id: "search", placeholder: "class name", list: "classes" });
  const thumbnails = make("div", { id: "thumbnails", role: "listbox", "aria-label": "test images" });
  const found = make("p", { id: "found", "aria-live": "polite" });
  const names = views.map((view) => view.label);
  const weights = choice("weights", "weights", names, 0, update);
  const other = choice("compare", "compare with", ["nothing", ...names], 0, update);
  const heads = Array.from({ length: data.heads }, (_, head) => `head ${head}`);
  const head = choice("head", "attention", ["mean of heads", ...heads], 0, update);
  const block = slider("block", "block", { min: 0, max: data.blocks - 1, step: 1, value: data.block }, update);
  const ratio = slider(
    "ratio",
    "drop ratio",
    { min: 0, max: data.maxRatio, step: 0.01, value: data.ratio, show: (value) => value.toFixed(2) },
    () => chooseKeep(floorKept(ratio.value), `drop ratio ${ratio.value.toFixed(2)}`),
  );
  const epoch = slider(
    "epoch",
    "as in epoch",
    { min: 0, max: data.epochs.kept.length - 1, step: 1, value: data.epochs.kept.length - 1 },
    chooseEpoch,
  );
  const picture = shape("svg", { role: "img", class: "picture" });
  const summary = make("p", { id: "summary", "aria-live": "polite" });

  root.append(
    make(
      "div",
      { class: "controls" },
      make("div", { class: "control" }, make("label", { for: "search" }, "search"), search),
      make("datalist", { id: "classes" }, ...[...new Set(data.labels)].map((value) => make("option", { value }))),
      make(
        "div",
        { class: "buttons" },
        button("previous", "← previous", () => step(-1)),
        button("next", "next →", () => step(1)),
        found,
      ),
    ),
    thumbnails,
    make(
      "div",
      { class: "controls" },
      block.element,
      head.element,
      ratio.element,
      ...(data.epochs.kept.length > 1 ? [epoch.element] : []),
      ...(views.length > 1 ? [weights.element, other.element] : []),
    ),
    summary,
    picture,
    make("div", { class: "buttons" }, ...saveButtons(picture, () => `${data.run}_image${state.image}_block${block.value}`)),
  );
  data.images.forEach((source, number) => {
    const name = `image ${number}: ${data.labels[number]}`;
    const option = make("button", { type: "button", role: "option", "data-image": number, title: name, "aria-label": name });
    option.append(make("img", { src: source, alt: "" }));
    option.addEventListener("click", () => chooseImage(number));
    thumbnails.append(option);
  });
  thumbnails.addEventListener("keydown", arrows);
  search.addEventListener("input", filter);

  function unpack(text, Kind) {
    return new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  }

  function unpackView(view) {
    return {
      ...view,
      levels: unpack(view.levels, Uint8Array),
      order: unpack(view.order, tokens > 256 ? Uint16Array : Uint8Array),
    };
  }

  /** floor((1 - d) N) for a ratio in whole hundredths, at least 1. */
  function floorKept(value) {
    return Math.max(1, Math.floor(((100 - Math.round(100 * value)) * tokens) / 100));
  }

  function chooseKeep(keep, why) {
    state.keep = keep;
    state.why = why;
    update();
  }

  function chooseEpoch() {
    const [kept, drop] = [data.epochs.kept[epoch.value], data.epochs.ratios[epoch.value]];
    ratio.value = Math.min(drop, data.maxRatio);
    chooseKeep(kept, `epoch ${epoch.value}, d = ${Number(drop.toFixed(4))}`);
  }

  // which image

  function shown() {
    return [...thumbnails.children].filter((option) => !option.hidden);
  }

  function chooseImage(number, focus = false) {
    state.image = number;
    for (const option of thumbnails.children) {
      const chosen = Number(option.dataset.image) === number;
      option.setAttribute("aria-selected", chosen);
      option.tabIndex = chosen ? 0 : -1;
      if (chosen && focus) option.focus();
    }
    update();
  }

  function step(by, focus = false) {
    const options = shown();
    if (!options.length) return;
    const now = options.findIndex((option) => Number(option.dataset.image) === state.image);
    const next = now < 0 ? 0 : Math.min(options.length - 1, Math.max(0, now + by));
    chooseImage(Number(options[next].dataset.image), focus);
  }

  function arrows(event) {
    const options = shown();
    const row = options.filter((option) => option.offsetTop === options[0].offsetTop).length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    step(by, true);
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    for (const option of thumbnails.children) {
      option.hidden = !data.labels[option.dataset.image].toLowerCase().includes(wanted);
    }
    const options = shown();
    found.textContent = wanted ? `${options.length} of ${data.images.length} images` : "";
    if (options.length && !options.some((option) => Number(option.dataset.image) === state.image)) step(0);
  }

  // drawing

  function update() {
    timed(draw);
  }

  function draw() {
    const place = isNarrow(root) ? SLIM : WIDE;
    const rows = [views[weights.value]];
    if (other.value > 0) rows.push(views[other.value - 1]);
    const sentences = [];
    const marks = [];
    let bottom = 0;
    for (const view of rows) {
      const { elements, sentence, height } = drawRow(view, bottom, place);
      sentences.push(rows.length > 1 ? `${view.label}: ${sentence}` : sentence);
      marks.push(...elements);
      bottom += height;
    }
    for (const line of wrap(data.stamp, place.width - 8, "9px")) {
      marks.push(shape("text", { x: 4, y: bottom + 14, class: "stamp" }, line));
      bottom += 12;
    }
    picture.setAttribute("viewBox", `0 0 ${place.width} ${bottom + 8}`);
    picture.replaceChildren(...marks);
    summary.textContent = sentences.join(" ");
    picture.setAttribute("aria-label", summary.textContent);
  }

  function drawRow(view, top, place) {
    const { image } = state;
    const map = ((image * data.blocks + block.value) * (data.heads + 1) + head.value) * tokens;
    const levels = view.levels.subarray(map, map + tokens);
    const kept = new Set(view.order.subarray(map, map + state.keep));
    const highest = view.highest[image][block.value][head.value];
    const answers = view.answers[image];
    const answerText = answers.map(([name, sure]) => `${name} ${(100 * sure).toFixed(0)} %`).join(", ");
    const truth = data.known[image]
      ? `true class ${data.labels[image]} (${(100 * view.truth[image]).toFixed(0)} %)`
      : `${data.labels[image]}, true class unknown`;
    let sentence = `${state.keep} of ${tokens} tokens kept (${state.why})`;
    const share = coverage(kept);
    if (share) {
      sentence += `, with them ${(100 * share.ofObject).toFixed(0)} % of the object; `;
      sentence += `${(100 * share.ofKept).toFixed(0)} % of what is kept is object`;
    }
    const heading = wrap(`${view.label}: ${truth}; answers ${answerText}`, place.width - 8, "bold 12px");
    const attention = head.value ? `head ${head.value - 1}` : "mean of heads";
    const first = top + 30 + 16 * heading.length; // of the pictures, below the heading and their own names
    const { panel } = place;
    const [photo, saliency, drop] = [place.photo, place.map, place.kept].map(([x, y]) => ({ x, y: first + y }));
    const name = ({ x, y }, text) => shape("text", { x, y: y - 10, class: "tick" }, text);
    const elements = [
      ...heading.map((line, number) => shape("text", { x: 4, y: top + 16 * (number + 1), class: "heading" }, line)),
      name(photo, `image ${image}`),
      name(saliency, `saliency, block ${block.value}, ${attention}`),
      name(drop, `${state.keep} of ${tokens} tokens kept`),
      photograph(image, photo, panel),
      ...outline(image, photo, panel),
      ...mapCells(levels, saliency, panel),
      ...colourBar(highest, saliency, panel),
      photograph(image, drop, panel),
      ...dropped(kept, drop, panel),
      ...outline(image, drop, panel),
    ];
    return { elements, sentence: `${truth}; answers ${answerText}. ${sentence}.`, height: first + place.row - top };
  }

  function photograph(image, { x, y }, panel) {
    const place = { x, y, width: panel, height: panel, style: "image-rendering: pixelated" };
    return shape("image", { href: data.images[image], ...place });
  }

  function cell(token, { x, y }, panel, attributes) {
    const side = panel / data.grid;
    const [row, column] = [Math.floor(token / data.grid), token % data.grid];
    const place = { x: x + column * side, y: y + row * side, width: side, height: side };
    return shape("rect", { ...place, "shape-rendering": "crispEdges", ...attributes });
  }

  function mapCells(levels, corner, panel) {
    return Array.from(levels, (level, token) => cell(token, corner, panel, { class: "saliency", fill: colour(level) }));
  }

  function dropped(kept, corner, panel) {
    const dark = { class: "dropped", fill: "#000", "fill-opacity": 0.75 };
    const gone = [...Array(tokens).keys()].filter((token) => !kept.has(token));
    return gone.map((token) => cell(token, corner, panel, dark));
  }

  function colour(level) {
    return `#${data.colours.slice(6 * level, 6 * level + 6)}`;
  }

  function colourBar(highest, { x, y }, panel) {
    const left = x + panel + 8;
    const step = panel / 64;
    const bar = Array.from({ length: 64 }, (_, number) =>
      shape("rect", {
        x: left,
        y: y + panel - (number + 1) * step,
        width: 12,
        height: step + 0.3,
        fill: colour(Math.round((255 * number) / 63)),
      }),
    );
    const text = (value, height) => shape("text", { x: left + 16, y: y + height, class: "tick" }, value);
    return [...bar, text(highest.toPrecision(2), 10), text("attention", panel / 2 + 4), text("0", panel)];
  }

  function outline(image, { x, y }, panel) {
    if (!data.outlines || !data.outlines[image]) return [];
    const scale = panel / data.side;
    const transform = `translate(${x} ${y}) scale(${scale})`;
    return [shape("path", { d: data.outlines[image], transform, class: "object", "stroke-width": 1.5 / scale })];
  }

  /** How much of the object lies under kept tokens, and how much of the kept area is object; null if unknown. */
  function coverage(kept) {
    if (!objects || !data.known[state.image]) return null;
    const counts = objects.subarray(state.image * tokens, (state.image + 1) * tokens);
    const all = counts.reduce((sum, pixels) => sum + pixels, 0);
    const inside = [...kept].reduce((sum, token) => sum + counts[token], 0);
    return { ofObject: inside / all, ofKept: inside / (kept.size * data.pixelsPerToken) };
  }

  state.keep = floorKept(ratio.value);
  state.why = `drop ratio ${ratio.value.toFixed(2)}`;
  chooseImage(0);
  if (data.epochs.kept.length > 1) chooseEpoch();
  followWidth(root, update);
}
