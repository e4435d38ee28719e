//! A filter as conditions in SQL, and the statements that they make.

use rusqlite::types::Value;

use crate::domain::search_text::{Fragment, KeyPrefix, Needle};
use crate::sqlite::functions::{IS_CANDIDATE, IS_LAST, SHOWN};
use crate::{Filter, Result};

/// How many rows one step of a walk inspects: less than 1 ms of work.
pub(super) const STEP_ROWS: usize = 4_096;

/// Returns the pattern of
/// [GLOB](https://sqlite.org/lang_expr.html#the_like_glob_regexp_match_and_extract_operators) that
/// matches the texts which hold this one.
fn containing(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('*');
    for c in text.chars() {
        match c {
            '*' | '?' | '[' => pattern.extend(['[', c, ']']),
            c => pattern.push(c),
        }
    }
    pattern.push('*');
    pattern
}

/// The conditions of a filter in SQL, with the values of their parameters.
pub(super) struct Selection {
    conditions: Vec<String>,
    pub(super) values: Vec<Value>,
    pub(super) needle: Option<Needle>,
    /// The parameter of the external id, if there is that condition. It isn't among the others,
    /// since it says where to walk: in an index that has the living alone, in the order of
    /// creation.
    external_id: Option<usize>,
}

impl Selection {
    /// Returns the selection of a filter, but for the prefix. ?1 is the first value: the place
    /// after which a walk begins, or the id of a user.
    pub(super) fn new(first: Value, filter: &Filter) -> Result<Self> {
        let mut selection =
            Self { conditions: Vec::new(), values: vec![first], needle: None, external_id: None };
        selection.add_filter(filter)?;
        Ok(selection)
    }

    /// Returns whether the users are picked from the whole table, in the order of creation.
    pub(super) fn is_walk_of_table(&self) -> bool {
        self.external_id.is_none()
    }

    /// Adds a value, and returns the number of its parameter.
    pub(super) fn bind(&mut self, value: impl Into<Value>) -> usize {
        self.values.push(value.into());
        self.values.len()
    }

    /// Adds a condition.
    pub(super) fn add(&mut self, condition: String) {
        self.conditions.push(condition);
    }

    fn add_filter(&mut self, filter: &Filter) -> Result<()> {
        if let Some(text) = filter.email_contains.as_deref().filter(|text| !text.is_empty()) {
            self.add_fragment(Fragment::new(text)?);
        }
        let moments = [
            ("created_at >=", filter.created_after),
            ("created_at <", filter.created_before),
            ("coalesce(last_login_at, created_at) <", filter.inactive_since),
        ];
        for (comparison, moment) in moments {
            if let Some(moment) = moment {
                let number = self.bind(moment.as_unix_us());
                self.conditions.push(format!("{comparison} ?{number}"));
            }
        }
        if filter.never_logged_in {
            self.conditions.push("last_login_at IS NULL".to_owned());
        }
        if let Some(is_suspended) = filter.suspended {
            self.conditions
                .push(format!("suspended_at IS {}NULL", if is_suspended { "NOT " } else { "" }));
        }
        self.external_id = filter.external_id.as_ref().map(|id| self.bind(id.to_string()));
        Ok(())
    }

    fn add_fragment(&mut self, fragment: Fragment) {
        self.needle = Some(fragment.needle());
        let Fragment { in_key, in_address, in_shown } = fragment;
        let differs = in_address != in_key;
        let [key, address] = [in_key, in_address].map(|text| self.bind(containing(&text)));
        let shown = self.bind(in_shown);
        // Most addresses are their own keys and of ASCII: they are searched once, whatever else
        // there is to ask. GLOB is faster than instr. The plus signs keep SQLite from preparing
        // the statement anew for each step.
        let mut holds = format!(
            "email GLOB +?{key} OR (email_folded IS NOT NULL AND email_folded GLOB +?{key})"
        );
        if differs {
            holds += &format!(" OR email GLOB +?{address}");
        }
        // A key with such labels is shown in another form, and has a skeleton if that isn't ASCII.
        let has_labels = "skeleton IS NOT NULL AND instr(email_key, 'xn--')";
        self.conditions
            .push(format!("({holds} OR ({has_labels} AND instr({SHOWN}(email_key), ?{shown})))"));
    }

    /// Returns the statement of a walk without any filter.
    pub(super) fn walk(&self) -> String {
        let columns = user_columns!();
        format!(
            "SELECT {columns}, seq, deleted_at IS NOT NULL FROM users WHERE seq > ?1 ORDER BY seq"
        )
    }

    /// Returns the statement of a step of a walk that picks from the table.
    pub(super) fn filtered_walk(&self, columns: &str) -> String {
        let matches: String =
            self.conditions.iter().map(|condition| format!("{condition} AND ")).collect();
        let walked = match self.external_id {
            Some(number) => format!("external_id = ?{number} AND deleted_at IS NULL AND "),
            None => String::new(),
        };
        format!(
            "SELECT {columns} FROM users
             WHERE seq > ?1 AND {walked}{IS_CANDIDATE}(email)
                 AND ({IS_LAST}() OR ({matches}deleted_at IS NULL))
             ORDER BY seq"
        )
    }

    /// Returns the condition of an email prefix, if the filter has one.
    pub(super) fn prefix(&mut self, filter: &Filter) -> Result<Option<String>> {
        let Some(prefix) = filter.email_prefix.as_deref().filter(|prefix| !prefix.is_empty())
        else {
            return Ok(None);
        };
        Ok(Some(match KeyPrefix::new(prefix)? {
            KeyPrefix::Key(prefix) => self.begins_with(prefix),
            KeyPrefix::Shown { near, shown } => {
                let near = near.map(|prefix| self.begins_with(prefix)).join(" OR ");
                let shown = self.bind(shown);
                format!("({near}) AND substr({SHOWN}(email_key), 1, length(?{shown})) = ?{shown}")
            }
        }))
    }

    /// Returns the statement that looks a prefix up in the index of the keys.
    pub(super) fn search(&mut self, columns: &str, has_prefix: &str, limit: usize) -> String {
        let one_more = self.bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        let matches = self.matches();
        // The plus signs keep the planner from walking the table instead of the index.
        format!(
            "SELECT {columns} FROM users WHERE seq IN (
                SELECT seq FROM users
                WHERE {has_prefix}{matches} AND +seq > ?1
                ORDER BY +seq LIMIT ?{one_more}
            ) ORDER BY seq"
        )
    }

    /// Returns the statement on all users with a prefix, in any order.
    pub(super) fn with_prefix(&self, columns: &str, has_prefix: &str) -> String {
        format!("SELECT {columns} FROM users WHERE {has_prefix}{} AND +seq > ?1", self.matches())
    }

    /// Returns the statement that finds the user whose id is ?1 if they meet the filter.
    pub(super) fn one(&self, has_prefix: Option<&str>) -> String {
        let has_prefix =
            has_prefix.map(|condition| format!(" AND {condition}")).unwrap_or_default();
        format!(
            "SELECT 1 FROM users WHERE id = ?1 AND deleted_at IS NULL{has_prefix}{}",
            self.matches()
        )
    }

    /// Returns all conditions but the prefix, each with an AND before it.
    fn matches(&self) -> String {
        let external_id = self.external_id.map(|number| format!("external_id = ?{number}"));
        self.conditions
            .iter()
            .cloned()
            .chain(external_id)
            .map(|condition| format!(" AND {condition}"))
            .collect()
    }

    /// Returns the condition that a key begins with this.
    fn begins_with(&mut self, prefix: String) -> String {
        // Above every text with this prefix: no address holds this code point, which is never
        // assigned.
        let end = self.bind(format!("{prefix}\u{10FFFF}"));
        let start = self.bind(prefix);
        // In each branch of an OR, so that each can use the index, which is of the living.
        format!("(email_key >= ?{start} AND email_key < ?{end} AND deleted_at IS NULL)")
    }
}
