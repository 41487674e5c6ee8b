//! What a proxy in front of this one says about its client, and how much of it is believed. RFC 7239.
//!
//! Anybody can write these fields, so only those are read that come from a peer whom the operator
//! trusts (`--trust-forwarded`). Each proxy appends the address of whoever asked it. Read from the
//! right, the first address that is not trusted is therefore the client: what stands to the left of it
//! is the client's own word.

use std::net::{IpAddr, Ipv6Addr};

use http::HeaderValue;

use crate::message::fields::{Fields, split_unquoted};
use crate::message::network::Network;
use crate::message::target::{Scheme, split_authority};

/// The most trusted proxies in front of the peer. A longer chain of trusted addresses names no client.
pub const HOPS_MAX: usize = 32;
/// The longest host and port that is believed: a name of 255 bytes, a colon, and a port.
const HOST_BYTES_MAX: usize = 261;

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const HOST: &str = "x-forwarded-host";

/// What is believed of a request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Believed {
    /// The client: the peer, unless a trusted one names another. `None` if the request came over no
    /// network.
    pub client: Option<IpAddr>,
    /// There is a client behind the peer, and nobody who is trusted says which.
    pub is_hidden: bool,
    /// The trusted proxies between the client and this one, the peer last.
    pub proxies: Vec<IpAddr>,
    /// What the client spoke; `None` if nobody who is trusted says so.
    pub scheme: Option<Scheme>,
    /// Host and port that the client asked for, in lower case.
    pub host: Option<String>,
}

/// What `fields` say of the client, as far as `peer` is trusted. `None` for the peer stands for the
/// operator, on this machine (`proxy explain`).
///
/// `X-Forwarded-*` outranks `Forwarded`, and the two are not mixed. Most proxies write the former and
/// pass on the latter as the client has sent it; that would let clients choose their address.
pub fn believe(fields: &Fields, peer: Option<IpAddr>, trusted: &[Network]) -> Believed {
    // A listener on `::` sees IPv4 clients as mapped addresses; the operator has written networks of
    // IPv4.
    let peer = peer.map(|peer| peer.to_canonical());
    let trusts = |address: IpAddr| trusted.iter().any(|network| network.holds(address));
    let nothing = Believed { client: peer, ..Believed::default() };
    // The peer is the one address that the network itself vouches for. If it is not trusted, nothing in
    // the fields is.
    if trusted.is_empty() || peer.is_some_and(|peer| !trusts(peer)) {
        return nothing;
    }
    let said = Said::read(fields);
    let mut proxies = Vec::new();
    let (mut client, mut depth) = (peer, 0);
    // Unless an address that is not trusted ends the walk, the chain is longer than what was read of
    // it.
    let mut is_hidden = said.nodes.len() > HOPS_MAX;
    for (hop, node) in said.nodes.iter().enumerate() {
        depth = hop;
        // `unknown`, or nonsense: what stands further left was written by whoever wrote this.
        let Some(address) = *node else {
            is_hidden = true;
            break;
        };
        // The node in hand was written by the one before it, which is trusted: it takes the client's
        // place, and the former client turns out to be a proxy.
        proxies.extend(client.replace(address));
        if !trusts(address) {
            is_hidden = false;
            break;
        }
    }
    proxies.reverse();
    // A proxy that appended fewer values than addresses wrote the farthest of them.
    let scheme = said.schemes.get(depth).or(said.schemes.last()).copied().flatten();
    let host = said.hosts.get(depth).or(said.hosts.last()).cloned().flatten();
    // Scheme and host are still believed, because the trusted proxy said them; the client stays the
    // peer, so that `--allow-purge` and the log do not go by a guess.
    if is_hidden {
        return Believed { is_hidden, scheme, host, ..nothing };
    }
    Believed { client, is_hidden, proxies, scheme, host }
}

/// What the fields say, the nearest hop first; `None` stands for what is hidden or malformed.
#[derive(Default)]
struct Said {
    nodes: Vec<Option<IpAddr>>,
    schemes: Vec<Option<Scheme>>,
    hosts: Vec<Option<String>>,
}

impl Said {
    fn read(fields: &Fields) -> Self {
        // One of the three is enough: a proxy that writes `X-Forwarded-Proto` alone passes `Forwarded`
        // on as the client has sent it.
        if [FOR, PROTO, HOST].iter().any(|name| fields.contains(name)) {
            return Self {
                nodes: nearest(fields, FOR, by_commas).map(node).collect(),
                schemes: nearest(fields, PROTO, by_commas).map(scheme).collect(),
                hosts: nearest(fields, HOST, by_commas).map(host).collect(),
            };
        }
        let mut said = Self::default();
        for element in nearest(fields, "forwarded", by_elements) {
            // A malformed element keeps its place, as one that says nothing, or the hops would not be
            // counted right.
            let element = Element::read(element).unwrap_or_default();
            said.nodes.push(element.node);
            said.schemes.push(element.scheme);
            said.hosts.push(element.host);
        }
        said
    }
}

/// The members of a list over all its field lines, from the right: one more than are looked at.
fn nearest<'a, I: Iterator<Item = &'a [u8]>>(
    fields: &'a Fields,
    name: &'a str,
    split: impl Fn(&'a [u8]) -> I,
) -> impl Iterator<Item = &'a [u8]> {
    // One more than is looked at shows that the chain is longer. A client may send as many as a head
    // can hold.
    let lines: Vec<&[u8]> = fields.get_all(name).map(HeaderValue::as_bytes).collect();
    let members = lines.into_iter().rev().flat_map(split);
    members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).take(HOPS_MAX + 1)
}

/// Members of `X-Forwarded-*`, from the right. A quotation mark means nothing here: one that a client
/// sent must not hide the comma behind which a proxy wrote the client's address.
fn by_commas(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.rsplit(|byte| *byte == b',')
}

/// Elements of `Forwarded`, from the right: the trusted proxies wrote well-formed ones, whatever the
/// client has put in front of them.
fn by_elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let mut quoted = false;
        // From the right, too, so that an open quotation mark in the client's part cannot swallow what
        // a trusted proxy has appended.
        let comma = line.iter().enumerate().rposition(|(at, byte)| {
            let escapes = || line[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
            quoted ^= *byte == b'"' && escapes() % 2 == 0;
            *byte == b',' && !quoted
        });
        rest = comma.map(|comma| &line[..comma]);
        Some(comma.map_or(line, |comma| &line[comma + 1..]))
    })
}

/// One element of `Forwarded` (RFC 7239 §4).
#[derive(Default)]
struct Element {
    node: Option<IpAddr>,
    scheme: Option<Scheme>,
    host: Option<String>,
}

impl Element {
    /// `None` if it is malformed, or says something twice that is listened to.
    fn read(text: &[u8]) -> Option<Self> {
        let mut element = Self::default();
        // Of these alone it is known whether they came before: a client may write thousands of others.
        let mut seen = [false; 3];
        for pair in split_unquoted(text, b';').map(<[u8]>::trim_ascii) {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
            let (name, value) = (name.to_ascii_lowercase(), unquoted(value)?);
            let Some(at) = ["for", "proto", "host"].iter().position(|known| name == *known) else {
                continue;
            };
            // Two readers would take two different ones for the truth.
            if std::mem::replace(&mut seen[at], true) {
                return None;
            }
            match at {
                0 => element.node = node(value.as_bytes()),
                1 => element.scheme = scheme(value.as_bytes()),
                _ => element.host = host(value.as_bytes()),
            }
        }
        Some(element)
    }
}

/// The value of a token or a quoted string (RFC 9110 §5.6.4).
fn unquoted(value: &str) -> Option<String> {
    // A quotation mark in the middle is malformed, and the element with it.
    let Some(quoted) = value.strip_prefix('"') else {
        return (!value.contains('"')).then(|| value.to_string());
    };
    let mut text = String::with_capacity(quoted.len());
    let mut letters = quoted.chars();
    loop {
        match letters.next()? {
            '"' => return letters.next().is_none().then_some(text),
            '\\' => text.push(letters.next()?),
            letter => text.push(letter),
        }
    }
}

/// The address of a node (RFC 7239 §6): with or without a port, an IPv6 one with or without brackets.
/// `None` for `unknown`, an obfuscated identifier, and what is malformed.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    // RFC 7239 §6 wants brackets around IPv6 addresses; `X-Forwarded-For` never had them.
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let is_whole = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return is_whole.then(|| IpAddr::from(address).to_canonical());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = text.split_once(':')?;
    address.parse().ok().filter(|address: &IpAddr| address.is_ipv4() && is_port(port))
}

/// A port, or an obfuscated one.
fn is_port(text: &str) -> bool {
    let obfuscated = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(obfuscated),
        None => text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok(),
    }
}

/// The scheme by its name. Some proxies call that of a WebSocket `ws` or `wss`.
fn scheme(text: &[u8]) -> Option<Scheme> {
    let name = std::str::from_utf8(text).ok()?;
    match name.to_ascii_lowercase().as_str() {
        "ws" => Some(Scheme::Http),
        "wss" => Some(Scheme::Https),
        name => Scheme::read(name),
    }
}

/// A host and port as names and addresses are written. No other byte passes, because the origin server
/// may put it into a page.
fn host(text: &[u8]) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if text.len() > HOST_BYTES_MAX || !text.iter().all(|byte| plain(*byte)) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    split_authority(text).map(|_| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const TRUSTED: &str = "10.0.0.0/8 fd00::/8";
    const PEER: &str = "10.0.0.1";

    /// Field lines are separated by `|`.
    fn believed_of(peer: Option<&str>, lines: &str) -> Believed {
        let line = |line: &str| {
            let (name, value) = line.split_once(':').expect("a field");
            let name = HeaderName::from_bytes(name.trim().as_bytes()).expect("a name");
            (name, HeaderValue::from_bytes(value.trim().as_bytes()).expect("a value"))
        };
        let fields = lines.split('|').filter(|text| !text.is_empty()).map(line).collect();
        let trusted: Vec<Network> =
            TRUSTED.split(' ').map(|text| Network::read(text).expect("a network")).collect();
        believe(&fields, peer.map(|peer| peer.parse().expect("an address")), &trusted)
    }

    /// `client < proxy < proxy`, or `hidden`; then scheme and host.
    fn told(believed: &Believed) -> String {
        let Believed { client, is_hidden, proxies, scheme, host } = believed;
        let chain = client.iter().chain(proxies).map(ToString::to_string).collect::<Vec<_>>();
        let chain = if *is_hidden { "hidden".to_string() } else { chain.join(" < ") };
        let scheme = scheme.map_or("-", Scheme::as_str);
        format!("{chain} {scheme} {}", host.as_deref().unwrap_or("-"))
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_trusted() {
        #[rustfmt::skip]
        let table = [
            // X-Forwarded-For: one address, chains, lines, ports, brackets, mapped addresses.
            ("",                                                        "10.0.0.1 - -"),
            ("X-Forwarded-For: 1.1.1.1",                                "1.1.1.1 < 10.0.0.1 - -"),
            ("X-Forwarded-For: 9.9.9.9, 1.1.1.1",                       "1.1.1.1 < 10.0.0.1 - -"),
            ("X-Forwarded-For: 10.0.0.9, 1.1.1.1",                      "1.1.1.1 < 10.0.0.1 - -"),
            ("X-Forwarded-For: 9.9.9.9, 1.1.1.1, 10.0.0.3 , 10.0.0.2",  "1.1.1.1 < 10.0.0.3 < 10.0.0.2 < 10.0.0.1 - -"),
            ("X-Forwarded-For: 9.9.9.9|X-Forwarded-For: 1.1.1.1|X-Forwarded-For: 10.0.0.2", "1.1.1.1 < 10.0.0.2 < 10.0.0.1 - -"),
            ("X-Forwarded-For: 10.0.0.3, 10.0.0.2",                     "10.0.0.3 < 10.0.0.2 < 10.0.0.1 - -"),
            ("X-Forwarded-For: ,, 1.1.1.1,",                            "1.1.1.1 < 10.0.0.1 - -"),
            ("X-Forwarded-For: 1.1.1.1:4711",                           "1.1.1.1 < 10.0.0.1 - -"),
            ("X-Forwarded-For: 2001:db8::1",                            "2001:db8::1 < 10.0.0.1 - -"),
            ("X-Forwarded-For: [2001:db8::1]",                          "2001:db8::1 < 10.0.0.1 - -"),
            ("X-Forwarded-For: [2001:db8::1]:80, fd00::2",              "2001:db8::1 < fd00::2 < 10.0.0.1 - -"),
            ("X-Forwarded-For: ::ffff:1.1.1.1, ::ffff:10.0.0.2",        "1.1.1.1 < 10.0.0.2 < 10.0.0.1 - -"),
            ("X-Forwarded-For: \", 1.1.1.1",                            "1.1.1.1 < 10.0.0.1 - -"),
            ("X-Forwarded-For: nonsense, 1.1.1.1",                      "1.1.1.1 < 10.0.0.1 - -"),
            // Nobody trusted says who it is.
            ("X-Forwarded-For: 1.1.1.1, unknown",                       "hidden - -"),
            ("X-Forwarded-For: 1.1.1.1, _secret, 10.0.0.2",             "hidden - -"),
            ("X-Forwarded-For: 1.1.1.1, 1.1.1, 10.0.0.2",               "hidden - -"),
            ("X-Forwarded-For: 1.1.1.1:",                               "hidden - -"),
            ("X-Forwarded-For: 1.1.1.1:99999",                          "hidden - -"),
            ("X-Forwarded-For: [1.1.1.1]",                              "hidden - -"),
            ("X-Forwarded-For: [::1",                                   "hidden - -"),
            ("X-Forwarded-For: [::1]x",                                 "hidden - -"),
            ("X-Forwarded-For: fe80::1%eth0",                           "hidden - -"),
            ("X-Forwarded-For: \u{e9}",                                 "hidden - -"),
            // Forwarded.
            ("Forwarded: for=1.1.1.1",                                  "1.1.1.1 < 10.0.0.1 - -"),
            ("Forwarded: for=9.9.9.9, FOR=\"1.1.1.1:_port\" ; by=10.0.0.3 ,For=10.0.0.2", "1.1.1.1 < 10.0.0.2 < 10.0.0.1 - -"),
            ("Forwarded: for=9.9.9.9|Forwarded: for=\"[2001:db8::1]:80\"", "2001:db8::1 < 10.0.0.1 - -"),
            ("Forwarded: for=\"1.1.\\1.1\"",                            "1.1.1.1 < 10.0.0.1 - -"),
            ("Forwarded: for=\", for=1.1.1.1",                          "1.1.1.1 < 10.0.0.1 - -"),
            ("Forwarded: by=\"a,b\\\",c\";for=1.1.1.1",                 "1.1.1.1 < 10.0.0.1 - -"),
            ("Forwarded: for=unknown",                                  "hidden - -"),
            ("Forwarded: for=_hidden;proto=https;host=a.test",          "hidden https a.test"),
            ("Forwarded: proto=https",                                  "hidden https -"),
            ("Forwarded: for=1.1.1.1;for=2.2.2.2",                      "hidden - -"),
            ("Forwarded: for=1.1.1.1;x=1;x=2",                          "1.1.1.1 < 10.0.0.1 - -"),
            ("Forwarded: for",                                          "hidden - -"),
            ("Forwarded: for=\"1.1.1.1",                                "hidden - -"),
            ("Forwarded: for=\"1.1.1.1\"x",                             "hidden - -"),
        ];
        for (lines, expected) in table {
            assert_eq!(told(&believed_of(Some(PEER), lines)), expected, "RFC 7239: {lines}");
            let stranger = believed_of(Some("1.2.3.4"), lines);
            assert_eq!(told(&stranger), "1.2.3.4 - -", "a stranger's {lines}");
        }
        let mapped = believed_of(Some("::ffff:10.0.0.1"), "X-Forwarded-For: 1.1.1.1");
        assert_eq!(told(&mapped), "1.1.1.1 < 10.0.0.1 - -");
        assert_eq!(told(&believed_of(None, "X-Forwarded-For: 1.1.1.1")), "1.1.1.1 - -");
        // A client that hides is the peer for all that need a name.
        let hidden = believed_of(Some(PEER), "X-Forwarded-For: unknown, 10.0.0.2");
        assert_eq!((hidden.client, hidden.proxies), (PEER.parse().ok(), Vec::new()));
    }

    #[test]
    fn scheme_and_host_are_those_that_the_client_asked() {
        #[rustfmt::skip]
        let table = [
            ("X-Forwarded-Proto: https",                                "10.0.0.1 https -"),
            ("X-Forwarded-Proto: HTTP|X-Forwarded-Host: Shop.Test:8443", "10.0.0.1 http shop.test:8443"),
            ("X-Forwarded-Proto: wss",                                  "10.0.0.1 https -"),
            ("X-Forwarded-Host: [::1]:80",                              "10.0.0.1 - [::1]:80"),
            // As many values as addresses: those of the hop that the client asked.
            ("X-Forwarded-For: 1.1.1.1, 10.0.0.2|X-Forwarded-Proto: https, http|X-Forwarded-Host: a.test, b.test", "1.1.1.1 < 10.0.0.2 < 10.0.0.1 https a.test"),
            // The client's own word stands to the left of it.
            ("X-Forwarded-For: 9.9.9.9, 1.1.1.1|X-Forwarded-Proto: http, https|X-Forwarded-Host: evil.test, a.test", "1.1.1.1 < 10.0.0.1 https a.test"),
            ("X-Forwarded-Proto: http|X-Forwarded-Proto: https",        "10.0.0.1 https -"),
            // One value for all hops.
            ("X-Forwarded-For: 1.1.1.1, 10.0.0.2|X-Forwarded-Proto: https|X-Forwarded-Host: a.test", "1.1.1.1 < 10.0.0.2 < 10.0.0.1 https a.test"),
            // Malformed.
            ("X-Forwarded-Proto: gopher|X-Forwarded-Host: a b",         "10.0.0.1 - -"),
            ("X-Forwarded-Proto: https:|X-Forwarded-Host: a/b",         "10.0.0.1 - -"),
            ("X-Forwarded-Host: user@a.test",                           "10.0.0.1 - -"),
            ("X-Forwarded-Host: a.test:99999",                          "10.0.0.1 - -"),
            ("X-Forwarded-Host: a'onload=1",                            "10.0.0.1 - -"),
            ("X-Forwarded-Host: \u{e9}.test",                           "10.0.0.1 - -"),
            ("Forwarded: for=1.1.1.1;proto=https;host=\"a.test:1\"",    "1.1.1.1 < 10.0.0.1 https a.test:1"),
            ("Forwarded: for=9.9.9.9;host=evil.test, for=1.1.1.1;proto=https;host=a.test, for=10.0.0.2;proto=http;host=b.test", "1.1.1.1 < 10.0.0.2 < 10.0.0.1 https a.test"),
            ("Forwarded: for=1.1.1.1;host=\"a.test/\\\"\"",             "1.1.1.1 < 10.0.0.1 - -"),
            // Both: X-Forwarded-* alone.
            ("Forwarded: for=9.9.9.9;proto=https;host=evil.test|X-Forwarded-For: 1.1.1.1", "1.1.1.1 < 10.0.0.1 - -"),
            ("Forwarded: for=9.9.9.9;host=evil.test|X-Forwarded-Proto: https", "10.0.0.1 https -"),
        ];
        for (lines, expected) in table {
            assert_eq!(told(&believed_of(Some(PEER), lines)), expected, "{lines}");
            assert_eq!(
                told(&believed_of(Some("1.2.3.4"), lines)),
                "1.2.3.4 - -",
                "a stranger's {lines}"
            );
        }
        let long = format!("X-Forwarded-Host: {}", "a".repeat(HOST_BYTES_MAX));
        assert!(believed_of(Some(PEER), &long).host.is_some());
        assert!(believed_of(Some(PEER), &(long + "a")).host.is_none());
    }

    #[test]
    fn a_chain_is_followed_for_so_many_hops() {
        for (field, of) in [("X-Forwarded-For: ", ""), ("Forwarded: ", "for=")] {
            let chain = |trusted: usize| {
                let hops = vec![format!("{of}10.0.0.2"); trusted];
                believed_of(Some(PEER), &format!("{field}{of}1.1.1.1, {}", hops.join(", ")))
            };
            let client = "1.1.1.1".parse().ok();
            assert_eq!(chain(HOPS_MAX - 1).client, client);
            assert_eq!((chain(HOPS_MAX).client, chain(HOPS_MAX).is_hidden), (client, false));
            let long = chain(HOPS_MAX + 1);
            assert_eq!((long.client, long.is_hidden), (PEER.parse().ok(), true));
        }
    }

    #[test]
    fn no_beginning_of_a_field_panics() {
        let whole =
            "for=\"[2001:db8::1]:_p\\\"\";proto=\"https\";host=\"a:1\", for=1.1.1.1:1;by=_x,,;=";
        for end in 0..=whole.len() {
            for start in [0, end / 2] {
                for name in
                    ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"]
                {
                    believed_of(Some(PEER), &format!("{name}: {}", &whole[start..end]));
                }
            }
        }
    }
}
