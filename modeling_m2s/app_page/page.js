// What a click on a film's or a scene's button does. Gradio runs this for each part of the page that has such buttons:
// `element` holds the part, `trigger` tells the server.
const CLICKABLE = "[data-pick], [data-play]";

function play(button) {
  const figure = document.querySelector(".m2s-player");
  const [video, picture] = figure.querySelectorAll("video, img");
  const [caption, note] = figure.querySelectorAll("figcaption > *");
  const start = Number(button.dataset.start);
  const time = new Date(start * 1000).toISOString().slice(11, 19);
  figure.hidden = false;
  caption.textContent = `${button.dataset.title}, ${time}`;
  note.textContent = "";
  const showPicture = (reason) => {
    video.pause();
    video.hidden = true;
    picture.hidden = false;
    picture.src = button.closest("li, .m2s-card")?.querySelector("img")?.src || "";
    note.textContent = reason;
  };
  if (!button.dataset.play) {
    showPicture("The film's file is not on this server any more.");
    return;
  }
  video.hidden = false;
  picture.hidden = true;
  video.onerror = () =>
    showPicture("The film cannot be played: its file is gone, or this browser does not know its format.");
  const address = new URL(button.dataset.play, document.baseURI).href;
  if (video.src !== address || video.error) video.src = address;
  video.currentTime = start;
  video.play().catch(() => {});
}

element.addEventListener("click", (event) => {
  const button = event.target.closest(CLICKABLE);
  if (!button || !element.contains(button)) return;
  const { pick } = button.dataset;
  // A picked scene plays too; on the timeline its times are on its card.
  const source = "play" in button.dataset ? button : document.querySelector(`.m2s-scenes [data-pick="${pick}"]`);
  if (source) play(source);
  if (pick) {
    const [film, scene] = pick.split(":").map(Number);
    document.querySelectorAll("[data-pick][aria-pressed]").forEach((other) => {
      other.setAttribute("aria-pressed", String(other.dataset.pick === pick));
    });
    // The server does not send the film again that the page shows, or will show by an answer that is still to come.
    const timeline = document.querySelector(".m2s-timeline");
    const { shown } = timeline.dataset;
    timeline.dataset.shown = shown.replace(/\d+$/, film);
    trigger("pick", { film, scene, shown });
  }
  if (window.matchMedia("(max-width: 800px)").matches) {
    document.querySelector(".m2s-player").scrollIntoView({ behavior: "smooth", block: "start" });
  }
});
