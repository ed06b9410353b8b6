// What a click on a scene does on the page of `m2s export --format html`: the scenes like it appear below it.
const { pictures, similar } = JSON.parse(document.getElementById("m2s-content").textContent);
const timeline = [...document.querySelectorAll(".m2s-timeline [data-scene]")];
const items = [...document.querySelectorAll(".m2s-list > li")];
const panel = element("section", "m2s-similar");

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function match([number, similarity]) {
  const [title, span] = items[number].querySelectorAll(".m2s-scene > b, .m2s-scene > span");
  const images = items[number].querySelectorAll(".m2s-keyframes > img");
  const bar = element("i", "");
  bar.style.width = `${100 * Math.min(Math.max(similarity, 0), 1)}%`;
  const where = element("span", "m2s-where", title.cloneNode(true), span.cloneNode(true), element("span", "m2s-bar", bar),
    element("small", "", `similarity ${similarity.toFixed(2)}`));
  const picture = images.length ? images[images.length >> 1].cloneNode() : element("span", "m2s-no-picture", "no picture");
  const button = element("button", "m2s-match", picture, where);
  button.type = "button";
  button.dataset.scene = number;
  return element("li", "", button);
}

function choose(number) {
  document.querySelectorAll("[aria-pressed]").forEach((button) => {
    button.setAttribute("aria-pressed", String(Number(button.dataset.scene) === number));
  });
  timeline.forEach((button, at) => { button.tabIndex = at === number ? 0 : -1; });
  const found = similar[number].length
    ? [element("span", "m2s-faint", "Similar scenes; 1: identical; 0: no more alike than two random scenes"),
       element("ol", "m2s-found", ...similar[number].map(match))]
    : [element("span", "m2s-faint", "This film has no other scene.")];
  panel.replaceChildren(...found);
  panel.setAttribute("aria-label", `Scenes like scene ${number + 1}`);
  items[number].append(panel);
}

document.querySelectorAll("img[data-shot]").forEach((image) => {
  image.src = `data:image/jpeg;base64,${pictures[image.dataset.shot]}`;
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-scene]");
  if (!button) return;
  const number = Number(button.dataset.scene);
  const isMatch = panel.contains(button);
  choose(number);
  if (!items[number].contains(button)) items[number].scrollIntoView({ block: "start" });
  // The button that was clicked is gone.
  if (isMatch) items[number].querySelector(".m2s-scene").focus({ preventScroll: true });
});

timeline[0].parentElement.addEventListener("keydown", (event) => {
  const at = timeline.indexOf(event.target);
  const places = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: timeline.length - 1 };
  const next = timeline[places[event.key]];
  if (!next) return;
  event.preventDefault();
  next.focus();
  next.click();
});
