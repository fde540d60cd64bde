"""Which figures each page has, what they say, and what they are read from.

One module per page: a function of a mart and a slice (Data quality and Governance: of the data directory). Titles are
messages, subtitles say measure and unit, cards say n. Its SQL is in `<page>_queries`. Does not belong
here: how a publication is opened and sliced (`mart`), limits (`spc`), marks (`charts`), HTML (`render`).
"""
