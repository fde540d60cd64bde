"""Snowflake, rendered from the policy and the contracts: objects for SnowDDL, a load, a verification.

Base tables hold what the role sees that sees everything, and next to each identifier the tokens that other
roles see instead: the key of pseudonyms never reaches the account. Masking policies choose by
`current_role()`, row access policies show a role of single hospitals the rows of its users' hospitals,
and each role reads secure views in a schema of its own, without the columns its policy drops. Small
cells cannot be protected by a query-time mask, so those KPI tables are copies of the role's publication.

Nothing here talks to Snowflake. `cross_check` looks for references to what does not exist, which
`snowddl validate` does not; what the policies mean is tested on DuckDB; `verify.sql` proves them in
the account.
"""
