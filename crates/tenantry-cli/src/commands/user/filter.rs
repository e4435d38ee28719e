//! The conditions that choose users on the command line.

use tenantry::{Filter, Timestamp};

use crate::args::FilterArgs;
use crate::failure::Failure;
use crate::moment::{ago, time};

impl FilterArgs {
    pub(super) fn parse(self) -> Result<Filter, Failure> {
        let time = |text: Option<String>| text.map(|text| time(&text)).transpose();
        Ok(Filter {
            email_prefix: self.email_prefix,
            email_contains: self.contains,
            created_after: time(self.created_after)?,
            created_before: time(self.created_before)?,
            inactive_since: self.inactive_for.map(|duration| ago(&duration)).transpose()?,
            never_logged_in: self.never_logged_in,
            suspended: match (self.suspended, self.not_suspended) {
                (false, false) => None,
                (is_suspended, _) => Some(is_suspended),
            },
            external_id: self.external_id.map(|id| id.parse()).transpose()?,
        })
    }
}

/// A filter that all users meet, and that isn't empty.
pub(super) fn everybody() -> Filter {
    Filter { created_after: Some(Timestamp::MIN), ..Filter::default() }
}
