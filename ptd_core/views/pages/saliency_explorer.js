// Saliency of test images: choose image, block, head and drop ratio, and set two models side by side.
"use strict";

function saliencyExplorer(data, root) {
  const tokens = data.grid * data.grid;
  const epochs = data.epochs.kept.length;
  const names = data.views.map((view) => view.label);
  const heads = Array.from({ length: data.heads }, (_, head) => `head ${head}`);
  let [keep, why] = [tokens, ""];

  const images = imageChooser(data, update);
  const weights = choice("weights", "weights", names, 0, update);
  const other = choice("compare", "compare with", ["nothing", ...names], 0, update);
  const head = choice("head", "attention", ["mean of heads", ...heads], 0, update);
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

  root.append(
    ...images.elements,
    make(
      "div",
      { class: "controls" },
      block.element,
      head.element,
      ratio.element,
      ...(epochs > 1 ? [epoch.element] : []),
      ...(names.length > 1 ? [weights.element, other.element] : []),
    ),
    summary,
    picture,
    make("div", { class: "buttons" }, ...saveButtons(picture, () => `${data.run}_image${images.image}_block${block.value}`)),
  );

  function chooseRatio() {
    [keep, why] = [keptTokens(ratio.value, tokens), `drop ratio ${ratio.value.toFixed(2)}`];
    update();
  }

  function chooseEpoch() {
    const drop = data.epochs.ratios[epoch.value];
    ratio.value = Math.min(drop, data.maxRatio);
    [keep, why] = [data.epochs.kept[epoch.value], `epoch ${epoch.value}, d = ${Number(drop.toFixed(4))}`];
    update();
  }

  function update() {
    timed(draw);
  }

  function draw() {
    const chosen = { image: images.image, block: block.value, head: head.value, keep, why };
    const numbers = other.value > 0 ? [weights.value, other.value - 1] : [weights.value];
    const models = numbers.map((number) => show(number, chosen));
    drawPicture(models, chosen, isNarrow(root));
    const sentences = models.map(({ label, sentence }) => (models.length > 1 ? `${label}: ${sentence}` : sentence));
    summary.textContent = sentences.join(" ");
    picture.setAttribute("aria-label", summary.textContent);
  }

  if (epochs > 1) chooseEpoch();
  else chooseRatio();
  images.choose(0);
  watchWidth(root, update);
}
