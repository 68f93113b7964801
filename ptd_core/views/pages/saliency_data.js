// What the models measured on the test images: maps, kept tokens, answers; and the words for it.
"use strict";

const unpack = (text, Kind) => new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
const percent = (share) => `${(100 * share).toFixed(0)} %`;

/** A function of a model's number and the reader's choice { image, block, head, keep, why }; head 0 is the mean. */
function saliencyData(data) {
  const tokens = data.grid * data.grid;
  const objects = data.objects && unpack(data.objects, Uint16Array);
  const views = data.views.map((view) => ({
    ...view,
    levels: unpack(view.levels, Uint8Array),
    order: unpack(view.order, tokens > 256 ? Uint16Array : Uint8Array),
  }));

  return (number, choice) => {
    const view = views[number];
    const { image, block, head, keep, why } = choice;
    const map = ((image * data.blocks + block) * (data.heads + 1) + head) * tokens;
    const kept = new Set(view.order.subarray(map, map + keep));
    const answers = `${truth(view, image)}; answers ${best(view, image)}`;
    return {
      label: view.label,
      levels: view.levels.subarray(map, map + tokens),
      highest: view.highest[image][block][head],
      kept,
      answers,
      sentence: `${answers}. ${keep} of ${tokens} tokens kept (${why})${covered(kept, image)}.`,
    };
  };

  function truth(view, image) {
    const name = data.labels[image];
    return data.known[image] ? `true class ${name} (${percent(view.truth[image])})` : `${name}, true class unknown`;
  }

  function best(view, image) {
    return view.answers[image].map(([name, sure]) => `${name} ${percent(sure)}`).join(", ");
  }

  /** How much of the object lies under kept tokens, and how much of the kept area is object; empty if unknown. */
  function covered(kept, image) {
    if (!objects || !data.known[image]) return "";
    const counts = objects.subarray(image * tokens, (image + 1) * tokens);
    const all = counts.reduce((sum, pixels) => sum + pixels, 0);
    const inside = [...kept].reduce((sum, token) => sum + counts[token], 0);
    const ofKept = percent(inside / (kept.size * data.pixelsPerToken));
    return `, with them ${percent(inside / all)} of the object; ${ofKept} of what is kept is object`;
  }
}
