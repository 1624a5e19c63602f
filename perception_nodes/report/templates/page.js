// Chooses the frame that is shown and which layers of it.
for (const tab of document.querySelectorAll(".tabs button")) {
  tab.addEventListener("click", () => {
    for (const other of document.querySelectorAll(".tabs button")) other.setAttribute("aria-selected", String(other === tab));
    for (const scene of document.querySelectorAll(".scene")) scene.hidden = scene.dataset.scene !== tab.dataset.scene;
  });
}
for (const box of document.querySelectorAll("[data-layer]")) {
  box.addEventListener("change", () => {
    document.querySelector(".scenes").classList.toggle("hide-" + box.dataset.layer, !box.checked);
  });
}
