// The theme: the system's, unless another one was chosen. A classic script, so that it runs before anything is drawn.

"use strict";
{
  const KEY = "edge_theme";
  const apply = (theme) => (document.documentElement.dataset.theme = theme);
  apply(localStorage.getItem(KEY) ?? "");
  addEventListener("DOMContentLoaded", () => {
    const choice = document.getElementById("theme");
    choice.value = document.documentElement.dataset.theme;
    choice.addEventListener("change", () => {
      apply(choice.value);
      if (choice.value) localStorage.setItem(KEY, choice.value);
      else localStorage.removeItem(KEY);
    });
  });
}
