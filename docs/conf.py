"""The documentation site.

    sphinx-build -W --keep-going -b html docs docs/_build/html

Nothing is fetched while building or while reading.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the kernels that execute the pages

import smcguide

project = "smcguide"
author = project_copyright = "smcguide developers"
version = release = smcguide.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "extension",
]
exclude_patterns = ["_build", "jupyter_execute"]
nitpicky = True
smartquotes = False

autosummary_generate = False  # a room is one page
autodoc_inherit_docstrings = False  # `propose` is explained once, in the base class
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_use_ivar = True
add_module_names = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "auto"
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # tqdm wants widgets; in the suite warnings are errors
nb_merge_streams = True
nb_execution_in_temp = True
nb_execution_timeout = 300

html_theme = "furo"
html_title = "smcguide"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_theme_options = {"top_of_page_buttons": []}
html_show_sourcelink = False
