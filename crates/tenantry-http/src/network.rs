//! Networks of addresses, and the client behind proxies.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A range of IP addresses, such as `10.0.0.0/8` or `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: Ipv6Addr,
    /// How many of the 128 bits are the same in the whole range.
    bits: u32,
}

/// The bits before the address in an IPv6 address that stands for one of IPv4.
const MAPPED_BITS: u32 = 96;

impl Network {
    /// Returns whether an address is in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
        (u128::from(self.address) ^ u128::from(mapped(address))) & mask == 0
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => {
                (address, Some(bits.parse::<u32>().map_err(|_| InvalidNetwork)?))
            }
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        let before = if address.is_ipv4() { MAPPED_BITS } else { 0 };
        let bits = bits.unwrap_or(128 - before);
        if bits > 128 - before {
            return Err(InvalidNetwork);
        }
        Ok(Self { address: mapped(address), bits: before + bits })
    }
}

/// The text isn't a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidNetwork;

impl std::fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("expected an IP address, or a range such as 10.0.0.0/8")
    }
}

impl std::error::Error for InvalidNetwork {}

/// Returns the address of the client: that of the connection or, if that is of a trusted proxy, the
/// last one in `X-Forwarded-For` that isn't. Whatever is before it, the client may have written
/// (GHSA-57pm-8jxc-fh3g).
pub(crate) fn client(connected: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = connected;
    let lines = headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
    let lines: Vec<&str> = if is_trusted(client) { lines.collect() } else { Vec::new() };
    for named in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Ok(address) = named.trim().parse() else { break };
        client = address;
        if !is_trusted(client) {
            break;
        }
    }
    client.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_contains_the_addresses_that_begin_with_its_bits() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::1", "::1", "::2"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::ffff:11.1.1.1"),
        ] {
            let network = parse(network);
            assert!(network.contains(ip(inside)) && !network.contains(ip(outside)), "{network:?}");
        }
        assert!(parse("::/0").contains(ip("203.0.113.9")));
        for text in
            ["", "10.0.0.0/33", "::/129", "10.0.0/8", "example.com", "10.0.0.0/-1", "10.0.0.0/"]
        {
            assert_eq!(text.parse::<Network>(), Err(InvalidNetwork), "{text}");
        }
    }

    /// GHSA-57pm-8jxc-fh3g: a client that wrote the header itself passed for another.
    #[test]
    fn forwarded_addresses_are_believed_of_trusted_proxies_alone() {
        let trusted = [parse("10.0.0.0/8"), parse("127.0.0.1")];
        for (connected, header, expected) in [
            ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
            ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("127.0.0.1", "192.0.2.66, 198.51.100.1, 10.1.1.1", "198.51.100.1"),
            ("127.0.0.1", "192.0.2.66, nonsense, 10.1.1.1", "10.1.1.1"),
            ("127.0.0.1", "10.1.1.1", "10.1.1.1"),
            ("::ffff:127.0.0.1", "2001:db8::1", "2001:db8::1"),
        ] {
            let headers = HeaderMap::from_iter([(FORWARDED_FOR, header.parse().unwrap())]);
            assert_eq!(
                client(ip(connected), &headers, &trusted),
                ip(expected),
                "{connected} {header}"
            );
            assert_eq!(client(ip(connected), &headers, &[]), ip(connected).to_canonical());
            assert_eq!(
                client(ip(connected), &HeaderMap::new(), &trusted),
                ip(connected).to_canonical()
            );
        }
        // Proxies add a line of their own.
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_FOR, "192.0.2.66".parse().unwrap());
        headers.append(FORWARDED_FOR, "198.51.100.1".parse().unwrap());
        assert_eq!(client(ip("127.0.0.1"), &headers, &trusted), ip("198.51.100.1"));
    }
}
