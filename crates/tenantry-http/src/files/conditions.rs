//! Conditions on a file (RFC 9110, section 13), and the state that they are about.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::header::{
    ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use rustix::fs::Stat;

use crate::etag::{Tags, tags};
use crate::problem::{Problem, Type};

/// The end of the years that a date of HTTP can name, in seconds since 1970.
const YEAR_10000: u64 = 253_402_300_800;

/// What distinguishes one content of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The opaque part of the entity tag.
    tag: String,
    modified: Option<SystemTime>,
}

impl State {
    /// A strong tag: whatever changes the content changes one of these. An upload makes a new inode
    /// and sets the time of the change to the nanosecond (see [`upload`](super::upload)).
    pub(super) fn of(stat: &Stat) -> Self {
        let (size, inode) = (stat.st_size, stat.st_ino);
        let (mtime, mtime_ns, ctime, ctime_ns) =
            (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        let tag = format!("{size:x}-{mtime:x}.{mtime_ns:x}-{inode:x}-{ctime:x}.{ctime_ns:x}");
        let seconds = u64::try_from(stat.st_mtime).ok().filter(|seconds| *seconds < YEAR_10000);
        Self { tag, modified: seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)) }
    }

    pub(super) fn etag(&self) -> String {
        format!("\"{}\"", self.tag)
    }

    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        if let Ok(tag) = HeaderValue::from_str(&self.etag()) {
            headers.insert(ETAG, tag);
        }
        if let Some(Ok(date)) =
            self.modified.map(|time| HeaderValue::from_str(&httpdate::fmt_http_date(time)))
        {
            headers.insert(LAST_MODIFIED, date);
        }
    }

    /// Returns whether the rest of a file may be sent to a client that has the beginning of this
    /// (`If-Range`). The comparison is strong: a date is trusted a second after it only, since a
    /// file may change twice within one.
    pub(super) fn is_in_range(&self, headers: &HeaderMap, now: SystemTime) -> bool {
        let Some(value) = headers.get(IF_RANGE) else { return true };
        let Ok(value) = value.to_str() else { return false };
        match httpdate::parse_http_date(value) {
            Ok(date) => {
                self.modified == Some(date)
                    && now.duration_since(date).is_ok_and(|age| age > Duration::from_secs(1))
            }
            Err(_) => value.trim() == self.etag(),
        }
    }
}

/// The conditions of a request.
#[derive(Debug)]
pub(super) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
    modified_since: Option<SystemTime>,
    unmodified_since: Option<SystemTime>,
}

impl Conditions {
    /// Reads the conditions of a request.
    ///
    /// # Errors
    ///
    /// `InvalidParameter` if a header isn't a list of entity tags. Dates that can't be read are
    /// ignored (RFC 9110, section 13.1.3).
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let date =
            |name: HeaderName| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok();
        Ok(Self {
            if_match: tags(headers, &IF_MATCH)?,
            if_none_match: tags(headers, &IF_NONE_MATCH)?,
            modified_since: date(IF_MODIFIED_SINCE),
            unmodified_since: date(IF_UNMODIFIED_SINCE),
        })
    }

    /// Returns whether only a file that doesn't exist may be written.
    pub(super) fn requires_absence(&self) -> bool {
        matches!(self.if_none_match, Some(Tags::Any))
    }

    /// Checks the conditions of a request that changes a file, of which there may be none.
    pub(super) fn check_change(&self, state: Option<&State>) -> Result<(), Problem> {
        self.check_match(state)?;
        match (&self.if_none_match, state) {
            (Some(tags), Some(state)) if tags.matches_weakly(&state.tag) => {
                Err(failed("there is such a file, which If-None-Match excludes"))
            }
            _ => Ok(()),
        }
    }

    /// Checks the conditions of a request that reads a file. Returns whether the client has it
    /// already.
    pub(super) fn check_read(&self, state: &State) -> Result<bool, Problem> {
        self.check_match(Some(state))?;
        Ok(match (&self.if_none_match, self.modified_since) {
            (Some(tags), _) => tags.matches_weakly(&state.tag),
            (None, Some(since)) => state.modified.is_some_and(|modified| modified <= since),
            (None, None) => false,
        })
    }

    fn check_match(&self, state: Option<&State>) -> Result<(), Problem> {
        let is_met = match (&self.if_match, self.unmodified_since, state) {
            (Some(tags), _, state) => state.is_some_and(|state| tags.matches_strongly(&state.tag)),
            (None, Some(since), Some(state)) => {
                state.modified.is_some_and(|modified| modified <= since)
            }
            _ => true,
        };
        if is_met { Ok(()) } else { Err(failed("the file isn't the one that the condition names")) }
    }
}

fn failed(detail: &str) -> Problem {
    Problem::new(Type::PreconditionFailed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(name: HeaderName, value: &str) -> Conditions {
        Conditions::of(&HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]))
            .unwrap()
    }

    fn state() -> State {
        State {
            tag: "1-2".to_owned(),
            modified: Some(UNIX_EPOCH + Duration::from_secs(784_111_777)),
        }
    }

    #[test]
    fn if_match_is_compared_strongly_and_fails_without_a_file() {
        for (value, is_met) in [
            ("*", true),
            ("\"1-2\"", true),
            ("\"x\", \"1-2\"", true),
            ("W/\"1-2\"", false),
            ("\"x\"", false),
        ] {
            let conditions = conditions(IF_MATCH, value);
            assert_eq!(conditions.check_change(Some(&state())).is_ok(), is_met, "{value}");
            assert_eq!(conditions.check_read(&state()).is_ok(), is_met, "{value}");
            assert!(conditions.check_change(None).is_err(), "{value}");
        }
    }

    #[test]
    fn if_none_match_is_compared_weakly_and_holds_without_a_file() {
        for (value, has) in [("*", true), ("\"1-2\"", true), ("W/\"1-2\"", true), ("\"x\"", false)]
        {
            let conditions = conditions(IF_NONE_MATCH, value);
            assert_eq!(conditions.check_change(Some(&state())).is_err(), has, "{value}");
            assert_eq!(conditions.check_read(&state()).unwrap(), has, "{value}");
            assert!(conditions.check_change(None).is_ok(), "{value}");
        }
    }

    #[test]
    fn dates_are_compared_to_the_second_and_malformed_ones_ignored() {
        let (same, before) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:36 GMT");
        assert!(conditions(IF_MODIFIED_SINCE, same).check_read(&state()).unwrap());
        assert!(!conditions(IF_MODIFIED_SINCE, before).check_read(&state()).unwrap());
        assert!(!conditions(IF_MODIFIED_SINCE, "yesterday").check_read(&state()).unwrap());
        assert!(conditions(IF_UNMODIFIED_SINCE, same).check_change(Some(&state())).is_ok());
        assert!(conditions(IF_UNMODIFIED_SINCE, before).check_change(Some(&state())).is_err());
    }

    #[test]
    fn if_range_is_compared_strongly() {
        let modified = state().modified.unwrap();
        let is_in_range = |value: &str, after: u64| {
            let headers = HeaderMap::from_iter([(IF_RANGE, HeaderValue::from_str(value).unwrap())]);
            state().is_in_range(&headers, modified + Duration::from_secs(after))
        };
        assert!(
            is_in_range("\"1-2\"", 0) && !is_in_range("W/\"1-2\"", 0) && !is_in_range("\"x\"", 0)
        );
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert!(
            is_in_range(date, 2)
                && !is_in_range(date, 1)
                && !is_in_range("Sun, 06 Nov 1994 08:49:38 GMT", 9)
        );
        assert!(state().is_in_range(&HeaderMap::new(), modified));
    }
}
