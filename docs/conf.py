"""Build the site: `sphinx-build -W docs work/site` (`pip install -e '.[docs]'`)."""

project = "stealing"
author = "the authors of stealing"
html_theme = "furo"
html_title = "stealing"
html_static_path = ["_static"]
html_css_files = ["site.css"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]

# The pages are also read on GitHub, which knows headings by these anchors.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# The notebook is executed anew at each build, so that it cannot fall behind the code.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True

# Docstrings quote code in single backticks.
default_role = "code"
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
copybutton_exclude = ".linenos, .gp"
