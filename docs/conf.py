"""How Sphinx builds these pages: `make docs`. The library's modules are imported, without the heavy ones they use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

project = "advmerge"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
html_theme = "alabaster"
html_theme_options = {"fixed_sidebar": True, "page_width": "62rem", "show_powered_by": False}
html_copy_source = False
myst_heading_anchors = 3
napoleon_custom_sections = [("Columns", "params_style")]
autodoc_mock_imports = ["torch", "timm"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
