"""Which figures each page has, and what they say: one module per page.

A page is a function of a mart and a slice (Data quality and Governance: of the data directory): titles are
messages, subtitles say measure and unit, cards say n. Belongs here: words and choices. Does not: SQL
(`mart`), limits (`spc`), marks (`svg`), HTML (`render`).
"""
