"""Make DVC's plots pages usable offline: a template that contains Vega's scripts instead of links to a CDN.

python -m tools.plots_page     once; make plots runs it before the first page
"""

import subprocess
from pathlib import Path

import vl_convert

from pipelines.runtime.home import home, state_dir

VEGA_LITE = "5.21"  # DVC's plots are written for version 5
PAGE = Path(__file__).with_name("plots_page.html")
TEMPLATE = "plots_page.html"


def main() -> None:
    bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # pyright: ignore[reportCallIssue]
    scripts = bundle.replace("</script", "<\\/script")
    template = state_dir() / TEMPLATE
    template.write_text(PAGE.read_text(encoding="utf-8").replace("{vega}", scripts), encoding="utf-8")
    # --local: for other users the template does not exist, and DVC would then write no page at all.
    subprocess.run(
        ["dvc", "config", "--quiet", "--local", "plots.html_template", str(template)], cwd=home(), check=True
    )
    print(f"{template}: template of DVC's plots, {template.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
