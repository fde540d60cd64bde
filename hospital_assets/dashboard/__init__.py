"""The dashboard for administrators and charge nurses.

Belongs here: pages, their figures and the server that answers for them. It reads publications (see
`publishing`) and the small live copies, never the working warehouse, and shows figures that the KPI
tables hold. Does not belong here: what a figure means (`contracts`) and its limits (`measures`).

- `slices`, `mart`: what can be chosen, and how queries are run.
- `spc`: signals of a series against chance.
- `figures`, `pages`: the text and marks of each page, one module per page, its SQL in the module next to it; no HTML.
- `render`, `store`: HTML from templates; the publication that is shown.
- `app`, `serve`, `live`: routes, security headers and sign-in; the server; server-sent events.
"""
