// Scores of tokens on test images: choose image, score, block, head and drop ratio, and set two models side by side.
"use strict";

function saliencyExplorer(data, root) {
  const tokens = data.grid * data.grid;
  const epochs = data.epochs.kept.length;
  const names = data.views.map((view) => view.label);
  const heads = Array.from({ length: data.heads }, (_, head) => `head ${head}`);
  const stops = data.inRun ? data.inRun.stops : [];
  let [keep, why] = [tokens, ""];

  const images = imageChooser(data, update);
  const weights = choice("weights", "weights", names, 0, update);
  const other = choice("compare", "compare with", ["nothing", ...names], 0, update);
  const score = choice("score", "score", data.scores.map(({ name }) => name), 0, update);
  const head = choice("head", "head", ["mean of heads", ...heads], 0, update);
  // Of a run that drops in several blocks, or not simply the lowest scores: as it drops, or one block as if alone.
  const ways = data.inRun ? ["as in the run", "one block, top scores"] : [];
  const way = choice("way", "tokens dropped", ways, 0, chooseRatio);
  const place = choice("place", "block", data.inRun ? data.inRun.blocks : [], 0, update);
  const stop = slider(
    "stop",
    "drop ratio",
    { min: 0, max: stops.length - 1, step: 1, value: stops.length - 1, show: (value) => stops[value]?.ratio.toFixed(2) },
    chooseRatio,
  );
  const block = slider("block", "block", { min: 0, max: data.blocks - 1, step: 1, value: data.block }, update);
  const ratio = slider(
    "ratio",
    "drop ratio",
    { min: 0, max: data.maxRatio, step: 0.01, value: data.ratio, show: (value) => value.toFixed(2) },
    chooseRatio,
  );
  const epoch = slider("epoch", "as in epoch", { min: 0, max: epochs - 1, step: 1, value: epochs - 1 }, chooseEpoch);
  const picture = shape("svg", { role: "img", class: "picture" });
  const summary = make("p", { id: "summary", "aria-live": "polite" });
  const show = saliencyData(data);
  const drawPicture = saliencyPicture(data, picture);
  const inRun = () => data.inRun && way.value === 0;
  const nowBlock = () => (inRun() ? data.inRun.blocks[place.value] : block.value);

  root.append(
    ...images.elements,
    make(
      "div",
      { class: "controls" },
      score.element,
      ...(data.inRun ? [way.element, place.element, stop.element] : []),
      block.element,
      head.element,
      ratio.element,
      ...(epochs > 1 ? [epoch.element] : []),
      ...(names.length > 1 ? [weights.element, other.element] : []),
    ),
    summary,
    picture,
    make("div", { class: "buttons" }, ...saveButtons(picture, () => `${data.run}_image${images.image}_block${nowBlock()}`)),
  );

  function chooseRatio() {
    const drop = inRun() ? stops[stop.value].ratio : ratio.value;
    [keep, why] = [keptTokens(drop, tokens), `drop ratio ${drop.toFixed(2)}`];
    update();
  }

  function chooseEpoch() {
    const drop = data.epochs.ratios[epoch.value];
    const d = `d = ${Number(drop.toFixed(4))}`;
    ratio.value = Math.min(drop, data.maxRatio);
    [keep, why] = [data.epochs.kept[epoch.value], `epoch ${epoch.value}, ${d}`];
    if (data.inRun) {
      const far = stops.map((one) => Math.abs(one.ratio - drop));
      stop.value = far.indexOf(Math.min(...far));
      const shown = stops[stop.value].ratio;
      if (inRun() && shown !== drop) why += `; the nearest that is shown: ${Number(shown.toFixed(4))}`;
    }
    update();
  }

  function update() {
    timed(draw);
  }

  function draw() {
    const run = inRun();
    const hasHeads = !run && data.scores[score.value].heads;
    for (const { element } of [place, stop]) element.hidden = !run;
    for (const { element } of [block, ratio]) element.hidden = run;
    head.element.hidden = !hasHeads;
    const chosen = {
      image: images.image,
      score: score.value,
      block: nowBlock(),
      head: hasHeads ? head.value : null,
      keep: run ? stops[stop.value].keep[place.value] : keep,
      why,
      drop: run ? { stop: stop.value, place: place.value } : null,
    };
    const numbers = other.value > 0 ? [weights.value, other.value - 1] : [weights.value];
    const models = numbers.map((number) => show(number, chosen));
    drawPicture(models, chosen, isNarrow(root));
    const sentences = models.map(({ label, sentence }) => (models.length > 1 ? `${label}: ${sentence}` : sentence));
    summary.textContent = [...sentences, data.about].join(" ");
    picture.setAttribute("aria-label", summary.textContent);
  }

  if (epochs > 1) chooseEpoch();
  else chooseRatio();
  images.choose(0);
  watchWidth(root, update);
}
