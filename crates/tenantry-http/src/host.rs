//! By which names the service is reached.
//!
//! A browser on this machine takes a page of `http://evil.example` to a service on 127.0.0.1 if
//! that name is made to resolve to it (DNS rebinding). The page's requests name `evil.example`, and
//! are refused.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Uri};

use crate::auth::{Ends, Peer};
use crate::problem::{Problem, Type};

/// The URL at which clients reach the service: the beginning of each URL in a response
/// (GHSA-2wmj-46rj-qm2w: URLs made from what a request names lead where its sender wants).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    text: String,
    host: String,
}

impl PublicUrl {
    /// Returns the URL without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for PublicUrl {
    type Err = InvalidPublicUrl;

    fn from_str(text: &str) -> Result<Self, InvalidPublicUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidPublicUrl)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority =
            uri.authority().filter(|authority| is_http && !authority.as_str().contains('@'));
        let host = bare(authority.ok_or(InvalidPublicUrl)?.host()).to_ascii_lowercase();
        if uri.query().is_some() || text.contains('#') {
            return Err(InvalidPublicUrl);
        }
        Ok(Self { text: text.trim_end_matches('/').to_owned(), host })
    }
}

/// The text isn't the URL of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPublicUrl;

impl fmt::Display for InvalidPublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a URL without a query, such as https://users.example.com")
    }
}

impl std::error::Error for InvalidPublicUrl {}

/// An origin of web pages, such as `https://app.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl Origin {
    pub(crate) fn as_header(&self) -> &HeaderValue {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let uri: Uri = text.parse().map_err(|_| InvalidOrigin)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(InvalidOrigin);
        };
        // As browsers write it (RFC 6454, section 6.2).
        let origin = format!("{scheme}://{}", authority.as_str().to_ascii_lowercase());
        if origin != text || authority.as_str().contains('@') {
            return Err(InvalidOrigin);
        }
        HeaderValue::try_from(origin).map(Self).map_err(|_| InvalidOrigin)
    }
}

/// The text isn't an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidOrigin;

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected an origin in lower case and without a path, such as https://app.example.com",
        )
    }
}

impl std::error::Error for InvalidOrigin {}

/// Fails if a request on TCP names a host that isn't ours: `localhost`, an address of this machine,
/// the host of the public URL. Ports aren't compared, since a forwarded one differs.
pub(crate) fn check(request: &Request, public: Option<&PublicUrl>) -> Result<(), Problem> {
    // Only the server adds them: an application that nests the router sees to its hosts itself.
    let Some(ends) = request.extensions().get::<Ends>() else { return Ok(()) };
    if matches!(ends.peer, Peer::Unix { .. }) {
        return Ok(());
    }
    let mut named = request.headers().get_all(HOST).iter();
    let host = named.next();
    let invalid = |detail| Problem::new(Type::InvalidParameter, detail);
    if named.next().is_some() {
        return Err(invalid("there is more than one header Host"));
    }
    let host = host.map(|host| Authority::try_from(host.as_bytes())).transpose();
    let host = host.map_err(|_| invalid("the header Host isn't a host"))?;
    // That of HTTP/2, or of a request to a proxy.
    let authority = request.uri().authority();
    if host.is_none() && authority.is_none() {
        return Err(invalid("the header Host is missing"));
    }
    let is_own = |named: &Authority| is_own(named.host(), ends.local, public);
    if host.as_ref().is_none_or(is_own) && authority.is_none_or(is_own) {
        return Ok(());
    }
    Err(Problem::new(
        Type::Misdirected,
        "the service isn't known by this host; --public-url names one",
    ))
}

fn is_own(host: &str, local: Option<IpAddr>, public: Option<&PublicUrl>) -> bool {
    let host = bare(host).to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let is_own_address = match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || local == Some(address.to_canonical()),
        Err(_) => host == "localhost",
    };
    is_own_address || public.is_some_and(|public| public.host == host)
}

/// Returns an IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Version;

    use super::*;

    const PEER: Peer =
        Peer::Tcp(std::net::SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1));

    fn checked(hosts: &[&str], uri: &str, ends: Ends) -> Result<(), Type> {
        let mut request = Request::builder().uri(uri).version(Version::HTTP_11);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(ends);
        let public = "https://Users.example.com/store/".parse().unwrap();
        check(&request, Some(&public)).map_err(|problem| problem.kind())
    }

    /// CVE-2025-66414: a page in a browser reached a service on the loopback address by a name that
    /// resolved to it.
    #[test]
    fn dns_rebinding_is_refused_by_the_host() {
        let local = Some("192.0.2.7".parse().unwrap());
        let tcp = Ends { peer: PEER, local };
        for own in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "127.0.0.1:8080",
            "[::1]:9000",
            "192.0.2.7",
            "users.example.com",
            "USERS.example.com:443",
        ] {
            assert_eq!(checked(&[own], "/", tcp), Ok(()), "{own}");
        }
        for other in [
            "evil.example",
            "localhost.evil.example",
            "192.0.2.8",
            "evil.users.example.com",
            "users.example.com.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert_eq!(checked(&[other], "/", tcp), Err(Type::Misdirected), "{other}");
            assert_eq!(
                checked(&["localhost"], &format!("http://{other}/"), tcp),
                Err(Type::Misdirected),
                "{other}"
            );
            assert_eq!(
                checked(&[other], "http://localhost/", tcp),
                Err(Type::Misdirected),
                "{other}"
            );
            assert_eq!(
                checked(&[], &format!("http://{other}/"), tcp),
                Err(Type::Misdirected),
                "{other}"
            );
        }
        for none in [&[][..], &["localhost", "localhost"], &["a b"], &[""]] {
            assert_eq!(checked(none, "/", tcp), Err(Type::InvalidParameter), "{none:?}");
        }
        // No browser reaches a unix socket.
        assert_eq!(
            checked(&["evil.example"], "/", Ends { peer: Peer::Unix { uid: 0 }, local: None }),
            Ok(())
        );
    }

    #[test]
    fn a_public_url_has_a_host_and_neither_a_user_nor_a_query() {
        let parse = |text: &str| text.parse::<PublicUrl>();
        assert_eq!(
            parse("https://users.example.com/store/").unwrap().as_str(),
            "https://users.example.com/store"
        );
        assert_eq!(parse("http://[2001:db8::1]:80").unwrap().host, "2001:db8::1");
        for text in [
            "",
            "users.example.com",
            "/store",
            "ftp://example.com",
            "https://a@example.com",
            "https://example.com/?a",
        ] {
            assert_eq!(parse(text), Err(InvalidPublicUrl), "{text}");
        }
    }

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        for text in ["https://app.example.com", "http://localhost:3000", "app://local"] {
            assert_eq!(text.parse::<Origin>().unwrap().as_header(), text);
        }
        for text in [
            "*",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://App.example.com",
            "https://a@b",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(InvalidOrigin), "{text}");
        }
    }
}
