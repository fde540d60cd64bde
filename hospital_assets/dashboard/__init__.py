"""The dashboard: what administrators and charge nurses look at.

Belongs here: pages, their figures and the server that answers for them. It reads publications (see
`governance`) and the small live copies, never the working warehouse, and shows figures that the KPI
tables hold; what a figure means stands in the contracts, its limits in `limits`.

- `slices`, `mart`: what can be chosen; all SQL.
- `spc`: what a series says against chance.
- `figures`, `pages`: what each page shows, in words and marks, one module per page; no HTML.
- `app`, `auth`, `live`: routes and security headers, sign-in, server-sent events.
"""
