//! Networks: IP addresses that begin alike, as an operator writes them. RFC 4632, RFC 4291 §2.3.

use std::net::IpAddr;

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// What stands in front of an IPv4 address that is mapped into IPv6 (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

impl Network {
    /// Reads `127.0.0.1`, `::1` (also in brackets), `10.0.0.0/8` or `fe80::/10`. IPv4 addresses that are mapped into IPv6
    /// (`::ffff:10.0.0.0/104`) are read as what they are, as [`Network::holds`] sees them.
    pub fn read(text: &str) -> Option<Self> {
        let (address, bits) = if let Some((address, bits)) = text.split_once('/') {
            (address, Some(bits.parse().ok()?))
        } else {
            let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            (bare.unwrap_or(text), None)
        };
        let address: IpAddr = address.parse().ok()?;
        let most = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let bits: u8 = bits.unwrap_or(most);
        if bits > most {
            return None;
        }
        let mapped = address.is_ipv6() && address.to_canonical().is_ipv4();
        Some(match bits.checked_sub(MAPPED_BITS) {
            Some(bits) if mapped => Self { address: address.to_canonical(), bits },
            _ => Self { address, bits },
        })
    }

    /// Is `address` one of them?
    pub fn holds(&self, address: IpAddr) -> bool {
        let same = |one: u128, other: u128, width: u32| {
            let differing = (one ^ other) << (128 - width);
            self.bits == 0 || differing >> (128 - u32::from(self.bits)) == 0
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                same(u32::from(one).into(), u32::from(other).into(), 32)
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => same(one.into(), other.into(), 128),
            _ => false,
        }
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
        for wrong in ["", "localhost", "10.0.0.0/33", "10.0.0.0/", "::/129", "10.0.0/8"] {
            assert_eq!(Network::read(wrong), None, "{wrong}");
        }
    }
}
