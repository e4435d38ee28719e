//! Why requests are refused for their credentials.

use tenantry::Token;

use crate::problem::{Problem, Type};

/// Why a request was refused before it reached an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There are no credentials.
    Missing,
    /// The credentials aren't a token's secret by their form.
    Malformed,
    Unknown,
    Expired,
    Revoked,
    /// The token makes too many requests.
    TooMany,
}

impl Refusal {
    pub(crate) const ALL: [Self; 6] = [
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::Expired,
        Self::Revoked,
        Self::TooMany,
    ];

    /// Returns the name of the reason, for logs and figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::TooMany => "too_many",
        }
    }

    pub(crate) fn problem(self, retry_after: u64) -> Problem {
        let unauthorized = |detail| Problem::new(Type::Unauthorized, detail);
        match self {
            Self::Missing => unauthorized("the request has no credentials"),
            Self::Malformed => unauthorized("the credentials aren't a token: mistyped or cut off"),
            Self::Unknown => unauthorized("the token is not valid"),
            Self::Expired => unauthorized("the token has expired"),
            Self::Revoked => unauthorized("the token was revoked"),
            Self::TooMany => Problem::too_many_requests(retry_after),
        }
    }

    /// Logs the refusal by the number of the token: what was sent may be a secret.
    pub(crate) fn log(self, token: Option<&Token>, peer: &str) {
        let token = token.map_or_else(|| "unknown".to_owned(), |token| token.number.to_string());
        // A client without credentials may be a browser or a scanner.
        if self == Self::Missing {
            tracing::debug!(reason = self.name(), token, peer, "request refused");
        } else {
            tracing::warn!(reason = self.name(), token, peer, "request refused");
        }
    }
}
