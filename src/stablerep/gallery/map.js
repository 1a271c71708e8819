// The map: small pictures on a canvas that can be moved, enlarged, and walked over with the arrow keys.
(() => {
  "use strict";
  window.stablerepMap = ({ element, props, watch }) => {
    const root = element.querySelector(".sg-map");
    const sentence = Object.assign(document.createElement("p"), { className: "sg-summary", role: "status",
      textContent: "A map lays what was found on the first tab out so that alike pictures lie together." });
    sentence.setAttribute("role", "status");
    const canvas = Object.assign(document.createElement("canvas"), { tabIndex: 0, hidden: true });
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "Map of pictures: arrow keys go to the next picture, Enter opens it, plus and minus zoom");
    const hint = Object.assign(document.createElement("p"), { className: "sg-facts", hidden: true,
      textContent: "Drag to move, scroll or + and − to zoom, click or Enter to look closely." });
    const card = Object.assign(document.createElement("div"), { className: "sg-map-card", hidden: true });
    const cardImage = Object.assign(document.createElement("img"), { alt: "" });
    const cardText = document.createElement("p");
    cardText.setAttribute("aria-live", "polite");
    card.append(cardImage, cardText);
    const frame = Object.assign(document.createElement("div"), { className: "sg-map-frame" });
    frame.append(canvas, card);
    root.append(sentence, frame, hint);

    const context = canvas.getContext("2d");
    const atlas = new Image();
    let map = null, zoom = 1, middle = [0.5, 0.5], chosen = -1, wait = 0;
    const colours = ["#6b7280", "#2563eb", "#c2410c", "#15803d", "#7e22ce", "#be185d"];

    const side = () => Math.max(14, Math.min(map.tile * 2, map.tile * 0.75 * Math.sqrt(zoom)));
    const toScreen = ([x, y]) => [(x - middle[0]) * zoom * canvas.clientWidth * 0.94 + canvas.clientWidth / 2,
      (y - middle[1]) * zoom * canvas.clientHeight * 0.94 + canvas.clientHeight / 2];
    const draw = () => {
      if (!map || !canvas.clientWidth) return;
      const ratio = devicePixelRatio || 1;
      canvas.width = canvas.clientWidth * ratio;
      canvas.height = canvas.clientHeight * ratio;
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
      const size = side();
      const one = (number, large) => {
        const [x, y] = toScreen(map.places[number]);
        const wide = large ? size * 1.6 : size;
        if (x < -wide || y < -wide || x > canvas.clientWidth + wide || y > canvas.clientHeight + wide) return;
        context.drawImage(atlas, (number % map.across) * map.tile, Math.floor(number / map.across) * map.tile, map.tile, map.tile,
          x - wide / 2, y - wide / 2, wide, wide);
        context.lineWidth = large ? 3 : 1;
        context.strokeStyle = large ? "#f59e0b" : colours[map.origin[number] % colours.length];
        if (large || map.origins.length > 1) context.strokeRect(x - wide / 2, y - wide / 2, wide, wide);
      };
      for (let number = 0; number < map.places.length; number++) if (number !== chosen) one(number, false);
      if (chosen >= 0) one(chosen, true);
    };
    const choose = number => {
      chosen = number;
      draw();
      card.hidden = number < 0;
      if (number < 0) return;
      const place = `0/${map.rows[number]}`;
      cardImage.src = `/gallery/picture/${place}?side=256&v=${map.token}`;
      const [x] = toScreen(map.places[number]);
      card.classList.toggle("sg-left", x > canvas.clientWidth / 2);
      clearTimeout(wait);
      wait = setTimeout(async () => {
        const answer = await fetch(`/gallery/details/${place}`);
        if (answer.ok && chosen === number) cardText.textContent = (await answer.json()).caption;
      }, 80);
    };
    const nearest = (x, y) => {
      let best = -1, least = side() ** 2;
      map.places.forEach((place, number) => {
        const [px, py] = toScreen(place), far = (px - x) ** 2 + (py - y) ** 2;
        if (far < least) { least = far; best = number; }
      });
      return best;
    };
    const scale = (factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) => {
      const next = Math.max(1, Math.min(40, zoom * factor));
      const w = canvas.clientWidth * 0.94, h = canvas.clientHeight * 0.94;
      middle = [middle[0] + (x - canvas.clientWidth / 2) / w * (1 / zoom - 1 / next), middle[1] + (y - canvas.clientHeight / 2) / h * (1 / zoom - 1 / next)];
      zoom = next;
      if (zoom === 1) middle = [0.5, 0.5];
      draw();
    };
    const walk = key => {
      if (chosen < 0) return choose(0);
      const [x, y] = toScreen(map.places[chosen]);
      const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key];
      let best = -1, least = Infinity;
      map.places.forEach((place, number) => {
        const [px, py] = toScreen(place), along = (px - x) * dx + (py - y) * dy;
        if (number === chosen || along <= 0.5) return;
        const far = along + 3 * Math.abs((px - x) * dy + (py - y) * dx);
        if (far < least) { least = far; best = number; }
      });
      if (best < 0) return;
      const [bx, by] = toScreen(map.places[best]);
      if (bx < 0 || by < 0 || bx > canvas.clientWidth || by > canvas.clientHeight) middle = [...map.places[best]];
      choose(best);
    };

    let grip = null;
    canvas.addEventListener("pointerdown", event => { grip = { x: event.offsetX, y: event.offsetY, moved: false, middle: [...middle] }; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", event => {
      if (!map) return;
      if (!grip) return choose(nearest(event.offsetX, event.offsetY));
      const dx = event.offsetX - grip.x, dy = event.offsetY - grip.y;
      if (Math.abs(dx) + Math.abs(dy) > 4) grip.moved = true;
      if (grip.moved) { middle = [grip.middle[0] - dx / (zoom * canvas.clientWidth * 0.94), grip.middle[1] - dy / (zoom * canvas.clientHeight * 0.94)]; draw(); }
    });
    canvas.addEventListener("pointerup", event => {
      const wasClick = grip && !grip.moved;
      grip = null;
      if (!map || !wasClick) return;
      const number = nearest(event.offsetX, event.offsetY);
      if (number >= 0) { choose(number); window.stablerepGallery.look(`0/${map.rows[number]}`); }
    });
    canvas.addEventListener("wheel", event => { if (map) { event.preventDefault(); scale(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY); } }, { passive: false });
    canvas.addEventListener("keydown", event => {
      if (!map) return;
      if (/^Arrow/.test(event.key)) walk(event.key);
      else if (event.key === "+" || event.key === "=") scale(1.4);
      else if (event.key === "-") scale(1 / 1.4);
      else if (event.key === "Enter" && chosen >= 0) window.stablerepGallery.look(`0/${map.rows[chosen]}`);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    new ResizeObserver(draw).observe(canvas);
    atlas.addEventListener("load", draw);
    const show = () => {
      const value = props.value;
      if (value?.problem) { sentence.textContent = value.problem; return; }
      if (!value?.places) return;
      map = value; zoom = 1; middle = [0.5, 0.5]; chosen = -1;
      card.hidden = true;
      canvas.hidden = hint.hidden = false;
      sentence.textContent = value.sentence + (value.origins.length > 1 ? "; the colour of the frame is the origin" : "");
      atlas.src = value.atlas;
    };
    watch("value", show);
    show();
  };
})();
