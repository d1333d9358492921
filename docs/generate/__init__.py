"""Pages and drawings of the book that are made from the code, so that they cannot go stale.

What lives here: one module per page or drawing, a table of all of them (:data:`PAGES`), and the
hooks by which mkdocs adds them to a build. Every page is a function without arguments that returns
its text. Nothing here is imported by the product, and nothing that it makes is committed.
"""

from __future__ import annotations
