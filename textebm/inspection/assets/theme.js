// Light or dark, as the system says or the button.
const themeButton = document.getElementById("theme");
const themed = () => { themeButton.textContent = isDark() ? "Light" : "Dark"; redraws.forEach((draw) => draw()); };
themeButton.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; themed(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
