// Which test image is shown: a search by class, two buttons, and thumbnails to click or to walk through by keys.
"use strict";

/** The elements for it, and the number of the chosen image; `changed` is called when an image is chosen. */
function imageChooser(data, changed) {
  let image = 0;
  const search = make("input", { type: "search", id: "search", placeholder: "class name", list: "classes" });
  const thumbnails = make("div", { id: "thumbnails", role: "listbox", "aria-label": "test images" });
  const found = make("p", { id: "found", "aria-live": "polite" });
  const classes = [...new Set(data.labels)].map((value) => make("option", { value }));
  const previous = button("previous", "← previous", () => step(-1));
  const next = button("next", "next →", () => step(1));
  data.images.forEach((source, number) => {
    const name = `image ${number}: ${data.labels[number]}`;
    const option = make("button", { type: "button", role: "option", "data-image": number, title: name, "aria-label": name });
    option.append(make("img", { src: source, alt: "" }));
    option.addEventListener("click", () => choose(number));
    thumbnails.append(option);
  });
  thumbnails.addEventListener("keydown", arrows);
  search.addEventListener("input", filter);

  const numberOf = (option) => Number(option.dataset.image);
  const shown = () => [...thumbnails.children].filter((option) => !option.hidden);

  function choose(number, focus = false) {
    image = number;
    for (const option of thumbnails.children) {
      const chosen = numberOf(option) === number;
      option.setAttribute("aria-selected", chosen);
      option.tabIndex = chosen ? 0 : -1;
      if (chosen && focus) option.focus();
    }
    changed();
  }

  function step(by, focus = false) {
    const options = shown();
    if (!options.length) return;
    const now = options.findIndex((option) => numberOf(option) === image);
    const then = now < 0 ? 0 : Math.min(options.length - 1, Math.max(0, now + by));
    choose(numberOf(options[then]), focus);
  }

  function arrows(event) {
    const options = shown();
    const line = options.filter((option) => option.offsetTop === options[0].offsetTop).length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -line, ArrowDown: line, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    step(by, true);
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    for (const option of thumbnails.children) {
      option.hidden = !data.labels[numberOf(option)].toLowerCase().includes(wanted);
    }
    const options = shown();
    found.textContent = wanted ? `${options.length} of ${data.images.length} images` : "";
    if (options.length && !options.some((option) => numberOf(option) === image)) step(0);
  }

  return {
    elements: [
      make(
        "div",
        { class: "controls" },
        make("div", { class: "control" }, make("label", { for: "search" }, "search"), search),
        make("datalist", { id: "classes" }, ...classes),
        make("div", { class: "buttons" }, previous, next, found),
      ),
      thumbnails,
    ],
    get image() {
      return image;
    },
    choose,
  };
}
