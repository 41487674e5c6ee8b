//! Networks: IP addresses that begin alike, as an operator writes them. RFC 4632, RFC 4291 §2.3.

use std::net::IpAddr;

use ipnet::IpNet;

/// IP addresses that begin alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network(IpNet);

/// What stands in front of an IPv4 address that is mapped into IPv6 (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

impl Network {
    /// Reads `127.0.0.1`, `::1` (also in brackets), `10.0.0.0/8` or `fe80::/10`; `None` for anything else.
    ///
    /// IPv4 addresses that are mapped into IPv6 (`::ffff:10.0.0.0/104`) are read as what they are, as
    /// `holds` sees them.
    pub fn read(text: &str) -> Option<Self> {
        let written = if text.contains('/') {
            text.parse().ok()?
        } else {
            let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            IpNet::from(bare.unwrap_or(text).parse::<IpAddr>().ok()?)
        };
        // A mask shorter than the prefix of mapped addresses covers others too, and stays IPv6.
        let canonical = written.addr().to_canonical();
        let mapped_bits = written.prefix_len().checked_sub(MAPPED_BITS);
        match mapped_bits.filter(|_| canonical.is_ipv4() && written.addr().is_ipv6()) {
            Some(bits) => IpNet::new(canonical, bits).ok().map(Self),
            None => Some(Self(written)),
        }
    }

    /// Is `address` in this network? A mapped IPv4 address counts as IPv4: a socket that takes both kinds of
    /// clients shows IPv4 ones mapped (RFC 4291 §2.5.5.2).
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_addresses_that_begin_alike() {
        #[rustfmt::skip]
        let table = [
            ("127.0.0.1", "127.0.0.1", true), ("127.0.0.1", "127.0.0.2", false),
            ("10.0.0.0/8", "10.255.1.2", true), ("10.0.0.0/8", "11.0.0.0", false),
            ("0.0.0.0/0", "1.2.3.4", true), ("0.0.0.0/0", "::1", false),
            ("192.168.1.128/25", "192.168.1.200", true), ("192.168.1.128/25", "192.168.1.100", false),
            ("fe80::/10", "fe80::1", true), ("fe80::/10", "fec0::1", false),
            ("::1", "::1", true), ("[::1]", "::1", true), ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("::ffff:127.0.0.1", "127.0.0.1", true), ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.1.2.3", false), ("::/0", "10.0.0.1", false),
        ];
        for (network, address, expected) in table {
            let read = Network::read(network).expect(network);
            assert_eq!(
                read.holds(address.parse().expect(address)),
                expected,
                "{network} {address}"
            );
        }
        for wrong in [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.0.0/",
            "::/129",
            "10.0.0/8",
            "[::1]/8",
            "10.0.0.0/255.0.0.0",
        ] {
            assert_eq!(Network::read(wrong), None, "{wrong}");
        }
    }
}
