"""Pages for people, as Dagster assets: each is one self-contained HTML file.

Belongs here: what a page shows, how it looks, and the asset that writes it. Does not belong here: figures
of its own (they come from tables and checks), or anything that answers requests.
"""
