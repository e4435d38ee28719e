//! SQL and nothing else: each function is one statement, or a few that belong together.

pub(super) mod listing;
