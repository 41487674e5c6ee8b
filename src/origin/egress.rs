//! The proxy that leads out to the origin server, where the environment names one.
//!
//! As curl has it: `https_proxy` for https, `http_proxy` for http (in lower case only, because
//! `HTTP_PROXY` is what a CGI program's client can set), `all_proxy` for both, and `no_proxy` for
//! the hosts that are reached directly: names, domains, addresses and networks (`10.0.0.0/8`). What is
//! on this machine is always reached directly: another machine means another by `localhost`.

use std::net::IpAddr;

use crate::message::network::Network;
use crate::message::target::is_loopback;

/// Which proxy the environment names for an origin server, if any.
///
/// `variable` looks up one environment variable.
pub fn proxy_for(
    secure: bool,
    host: &str,
    port: u16,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    if is_loopback(host) {
        return None;
    }
    let set = |names: &[&str]| {
        names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))
    };
    if set(&["no_proxy", "NO_PROXY"]).is_some_and(|list| is_exempt(&list, host, port)) {
        return None;
    }
    let own = if secure { set(&["https_proxy", "HTTPS_PROXY"]) } else { set(&["http_proxy"]) };
    own.or_else(|| set(&["all_proxy", "ALL_PROXY"]))
        .map(|url| if url.contains("://") { url } else { format!("http://{url}") })
}

/// Is `host` in a `no_proxy` list: by name, by a domain it is in, by a network, or by `*`?
fn is_exempt(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>().ok();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let network = address.zip(Network::read(entry));
        if network.is_some_and(|(address, network)| network.holds(address)) {
            return true;
        }
        let (name, only_port) = match entry.rsplit_once(':') {
            Some((name, digits)) if !name.contains(':') => (name, digits.parse::<u16>().ok()),
            _ => (entry, None),
        };
        let name = name.trim_start_matches('.').trim_matches(['[', ']']).to_ascii_lowercase();
        let inside = host
            .strip_suffix(name.as_str())
            .is_some_and(|before| before.is_empty() || before.ends_with('.'));
        (name == "*" || inside) && only_port.is_none_or(|only| only == port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_chosen_by_scheme_and_host() {
        let environment = [
            ("https_proxy", "http://s:1"),
            ("http_proxy", "h:2"),
            ("HTTP_PROXY", "http://cgi:3"),
            ("no_proxy", "example.com, .corp, 10.0.0.1, local:8080"),
        ];
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_string())
        };
        let table = [
            ((true, "api.test", 443), Some("http://s:1")),
            ((false, "api.test", 80), Some("http://h:2")),
            ((true, "example.com", 443), None),
            ((true, "www.example.com", 443), None),
            ((true, "notexample.com", 443), Some("http://s:1")),
            ((true, "a.corp", 443), None),
            ((false, "10.0.0.1", 80), None),
            ((false, "local", 8080), None),
            ((false, "local", 80), Some("http://h:2")),
        ];
        for ((secure, host, port), expected) in table {
            let chosen = proxy_for(secure, host, port, variable);
            assert_eq!(chosen.as_deref(), expected, "{host}:{port}");
        }
    }

    #[test]
    fn loopback_and_what_no_proxy_names_are_reached_directly() {
        #[rustfmt::skip]
        let table = [
            // no_proxy, host, and whether it is reached directly.
            ("", "localhost", true), ("", "127.0.0.1", true), ("", "127.9.9.9", true), ("", "[::1]", true),
            ("", "LOCALHOST", true), ("", "10.0.0.1", false), ("", "localhost.test", false),
            ("*", "a", true), ("a", "b", false),
            ("10.0.0.0/8", "10.255.1.2", true), ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "10.test", false), ("a, 192.168.0.0/16", "192.168.9.9", true),
            ("192.168.1.128/25", "192.168.1.5", false), ("0.0.0.0/0", "8.8.8.8", true),
            ("fd00::/8", "[fd12::1]", true), ("fd00::/8", "[fe80::1]", false), ("fd12::1", "[fd12::1]", true),
            ("[fd12:0::1]", "[fd12::1]", true), ("10.0.0.0/33", "10.0.0.1", false),
            ("10.0.0.0/", "10.0.0.1", false),
        ];
        for (list, host, is_direct) in table {
            let variable = |name: &str| match name {
                "no_proxy" => Some(list.to_string()),
                "all_proxy" => Some("http://p:3128".to_string()),
                _ => None,
            };
            for secure in [false, true] {
                let chosen = proxy_for(secure, host, 80, variable);
                assert_eq!(chosen.is_none(), is_direct, "{list:?} {host}");
            }
        }
    }
}
