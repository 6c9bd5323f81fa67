"use strict";
(() => {
  const CANVAS_SIDE = 640; // pixels of a panel at least, enough for a dense screen
  const root = document.documentElement;
  root.classList.add("scripted");

  // theme: the reader's choice lasts for this page, and where storage is allowed for the next one
  const themeButton = document.querySelector(".theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  try {
    const kept = localStorage.getItem("robustvideo-theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch { /* a file may have no storage */ }
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("robustvideo-theme", root.dataset.theme);
    } catch { /* as above */ }
  });

  for (const button of document.querySelectorAll(".copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // a column's heading sorts by it: numbers the largest first, text from the start; what was not run stays last
  for (const table of document.querySelectorAll(".sortable")) {
    const body = table.tBodies[0];
    for (const heading of table.querySelectorAll("th[data-sort]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sortBy(table, body, heading));
    }
  }

  function sortBy(table, body, heading) {
    const column = heading.cellIndex;
    const numeric = heading.dataset.sort === "number";
    const order = { descending: "ascending", ascending: "descending" }[heading.getAttribute("aria-sort")]
      || (numeric ? "descending" : "ascending");
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const [first, second] = [value(a), value(b)];
      if (!first || !second) return !first - !second;
      return sign * (numeric ? first - second : first.localeCompare(second));
    });
    rows.forEach((row, place) => { row.cells[0].textContent = String(place + 1); });
    body.append(...rows);
  }

  // paper shows everything
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
  });

  const browser = document.querySelector(".browser");
  if (browser) clipBrowser(browser, Number(document.body.dataset.fps));

  function clipBrowser(browser, fps) {
    const find = (selector) => browser.querySelector(selector);
    const cards = [...browser.querySelectorAll(".card")];
    const stage = find(".stage");
    const video = find("video");
    const canvases = [...browser.querySelectorAll("canvas")];
    const scrubber = find(".scrubber input");
    const playButton = find(".play");
    const speed = find("select[name=speed]");
    let clip = null;
    let bars = [];
    let frame = 0;
    let wanted = 0; // where a seek is heading; equal to frame when none is under way

    // one video holds all three panels, so they cannot drift apart
    function draw() {
      const { width, height, stride } = clip.dataset;
      canvases.forEach((canvas, panel) => {
        const context = canvas.getContext("2d");
        context.imageSmoothingEnabled = false; // pixels of a small clip stay visible as such
        context.drawImage(video, panel * stride, 0, width, height, 0, 0, canvas.width, canvas.height);
      });
    }

    function mark(index) {
      bars[frame]?.classList.remove("now");
      frame = index;
      bars[frame]?.classList.add("now");
      scrubber.value = String(frame);
      scrubber.setAttribute("aria-valuetext", `frame ${frame + 1} of ${clip.dataset.frames}`);
      find(".frame").textContent = `frame ${frame + 1} of ${clip.dataset.frames}`;
    }

    function seek(index) {
      if (!clip?.dataset.frames) return;
      video.pause();
      const last = Number(clip.dataset.frames) - 1;
      wanted = Math.min(Math.max(index, 0), last);
      mark(wanted);
      video.currentTime = (wanted + 0.5) / fps;
    }

    function follow(_now, metadata) {
      if (clip?.dataset.frames && !video.seeking) {
        draw();
        if (!video.paused) {
          const last = Number(clip.dataset.frames) - 1;
          wanted = Math.min(Math.round(metadata.mediaTime * fps), last);
          mark(wanted);
        }
      }
      video.requestVideoFrameCallback(follow);
    }
    // a browser without frame callbacks draws as often as the screen does
    function followScreen() {
      if (!video.paused) follow(0, { mediaTime: Math.floor(video.currentTime * fps) / fps });
      requestAnimationFrame(followScreen);
    }
    if ("requestVideoFrameCallback" in HTMLVideoElement.prototype) {
      video.requestVideoFrameCallback(follow);
    } else {
      video.requestVideoFrameCallback = () => {};
      requestAnimationFrame(followScreen);
    }
    video.addEventListener("seeked", draw);
    video.addEventListener("loadeddata", () => { draw(); mark(0); });
    for (const [event, playing] of [["play", true], ["pause", false]]) {
      video.addEventListener(event, () => {
        stage.classList.toggle("playing", playing);
        playButton.setAttribute("aria-label", playing ? "Pause" : "Play");
      });
    }

    function toggle() {
      if (!clip?.dataset.frames) return;
      if (video.paused) {
        video.playbackRate = Number(speed.value);
        video.play().catch(() => { /* another clip was chosen meanwhile */ });
      } else {
        video.pause();
        seek(frame);
      }
    }

    function select(card) {
      for (const other of cards) other.setAttribute("aria-pressed", String(other === card));
      clip?.classList.remove("current");
      bars[frame]?.classList.remove("now");
      clip = document.getElementById(`clip-${card.dataset.clip}`);
      clip.classList.add("current");
      bars = [...clip.querySelectorAll(".strip i")];
      video.pause();
      const data = clip.dataset;
      stage.classList.toggle("without-video", !data.frames);
      if (!data.frames) return;
      const zoom = Math.ceil(CANVAS_SIDE / Math.max(data.width, data.height));
      for (const canvas of canvases) {
        canvas.width = data.width * zoom;
        canvas.height = data.height * zoom;
      }
      scrubber.max = String(Number(data.frames) - 1);
      scrubber.parentElement.style.setProperty("--frames", data.frames);
      find(".says-before").textContent = data.before;
      find(".says-after").textContent = data.after;
      find(".factor").textContent = data.factor === "0" ? "" : `× ${data.factor}`;
      find(".says-difference").textContent = data.factor === "0" ? "the picture is unchanged" : "grey is unchanged";
      const bytes = Uint8Array.from(atob(document.getElementById(`video-${card.dataset.clip}`).textContent), (c) => c.charCodeAt(0));
      URL.revokeObjectURL(video.src);
      video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
      wanted = 0;
      mark(0);
    }

    function filter() {
      const outcome = find("input[name=outcome]:checked").value;
      const chosen = { outcome };
      for (const name of ["attack", "class", "series"]) chosen[name] = find(`select[name=${name}]`)?.value || "";
      for (const card of cards) {
        card.hidden = Object.entries(chosen).some(([name, value]) => value && card.dataset[name] !== value);
      }
      const shown = cards.filter((card) => !card.hidden);
      find(".shown").textContent = shown.length === 1 ? "1 clip" : `${shown.length} clips`;
      find(".none-match").hidden = shown.length > 0;
      if (shown.length && !shown.some((card) => card.getAttribute("aria-pressed") === "true")) select(shown[0]);
    }

    for (const card of cards) card.addEventListener("click", () => select(card));
    find(".filters").addEventListener("change", filter);
    playButton.addEventListener("click", toggle);
    for (const button of browser.querySelectorAll(".step")) {
      button.addEventListener("click", () => seek(wanted + Number(button.dataset.step)));
    }
    speed.addEventListener("change", () => { video.playbackRate = Number(speed.value); });
    scrubber.addEventListener("input", () => seek(Number(scrubber.value)));
    find(".articles").addEventListener("click", (event) => {
      const bar = event.target.closest(".strip i");
      if (bar) seek(bars.indexOf(bar));
    });
    stage.addEventListener("keydown", (event) => {
      const own = event.target.closest("select, button");
      if (event.altKey || event.ctrlKey || event.metaKey || event.target.tagName === "SELECT") return;
      const last = Number(clip?.dataset.frames) - 1;
      const jumps = { ArrowLeft: wanted - 1, ArrowRight: wanted + 1, Home: 0, End: last };
      if (event.key in jumps) seek(jumps[event.key]);
      else if (event.key === " " && !own) toggle();
      else return;
      event.preventDefault();
    });

    filter();
  }
})();
