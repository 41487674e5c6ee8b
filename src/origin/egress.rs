//! The egress proxy: the proxy through which the origin server is reached, where the environment names one.
//!
//! As curl has it: `https_proxy` for https, `http_proxy` for http (in lower case only, because
//! `HTTP_PROXY` is what a CGI program's client can set), `all_proxy` for both, and `no_proxy` for
//! the hosts that are reached directly: names, domains, addresses and networks (`10.0.0.0/8`). What is
//! on this machine is always reached directly: another machine means another by `localhost`.

use std::net::IpAddr;

use http::HeaderValue;

use crate::message::network::Network;
use crate::message::target::{OriginUrl, Server, is_loopback, without_password};
use crate::policy::credentials::take_userinfo;

/// The egress proxies. Which one it is, if any, is asked for each URL that is requested: a
/// redirect may lead from a server that is reached directly to one that is not, and back.
#[derive(Clone, Default)]
pub struct Egress {
    http: Option<Result<EgressProxy, String>>,
    https: Option<Result<EgressProxy, String>>,
    /// `no_proxy`.
    exempt: String,
}

/// An egress proxy.
#[derive(Clone)]
pub struct EgressProxy {
    /// Its URL, with its password.
    pub(super) url: String,
    /// Its URL as it may be shown.
    pub shown: String,
    /// Its scheme, host and port.
    pub at: Server<'static>,
    /// Its credentials (RFC 9110 §11.7.1).
    pub(super) authorization: Option<HeaderValue>,
}

impl EgressProxy {
    /// Reads a proxy's URL; the error shows it without its password.
    fn read(url: String) -> Result<Self, String> {
        let shown = without_password(&url).into_owned();
        let (plain, authorization) = take_userinfo(&url);
        let at = OriginUrl::parse(&plain).map_err(|_| {
            // `socks5://` is the usual one; to go on directly would break the promise that the
            // environment makes.
            let what = match url.split("://").next().unwrap_or_default() {
                "http" | "https" => "it is no URL of a proxy".to_string(),
                scheme => format!("{scheme} is not spoken; http is"),
            };
            format!("proxy {shown} from the environment: {what}")
        })?;
        Ok(Self { url, shown, at: at.server, authorization })
    }
}

impl Egress {
    /// Reads the environment; `variable` looks up one of its variables.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |names: &[&str]| {
            // The lower-case name comes first, as with curl. A variable that is empty is as good as
            // unset.
            names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))
        };
        let read = |names: &[&str]| {
            let url = set(names).or_else(|| set(&["all_proxy", "ALL_PROXY"]))?;
            Some(EgressProxy::read(if url.contains("://") { url } else { format!("http://{url}") }))
        };
        // An error is kept, not returned: a proxy for https that cannot be used harms nobody who asks
        // for http.
        Self {
            http: read(&["http_proxy"]),
            https: read(&["https_proxy", "HTTPS_PROXY"]),
            exempt: set(&["no_proxy", "NO_PROXY"]).unwrap_or_default(),
        }
    }

    /// The egress proxy for this server; `None` if it is reached directly. The error is one line
    /// that names a proxy that cannot be used.
    pub fn proxy_for(&self, to: &Server<'_>) -> Result<Option<&EgressProxy>, String> {
        // To another machine `localhost` is itself.
        if is_loopback(&to.host) || is_exempt(&self.exempt, &to.host, to.port) {
            return Ok(None);
        }
        self.of_scheme(to.secure).map(Result::as_ref).transpose().map_err(Clone::clone)
    }

    /// The proxy for all servers of this scheme that are not reached directly.
    pub(super) fn of_scheme(&self, secure: bool) -> Option<&Result<EgressProxy, String>> {
        if secure { self.https.as_ref() } else { self.http.as_ref() }
    }

    /// Leaves out the proxies for which this is true.
    pub fn leave_out(&mut self, is_left_out: impl Fn(&Server<'_>) -> bool) {
        for named in [&mut self.http, &mut self.https] {
            if matches!(named, Some(Ok(proxy)) if is_left_out(&proxy.at)) {
                *named = None;
            }
        }
    }
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
        // `::1` has colons of its own, and no port behind the last of them.
        let (name, only_port) = match entry.rsplit_once(':') {
            Some((name, digits)) if !name.contains(':') => (name, digits.parse::<u16>().ok()),
            _ => (entry, None),
        };
        let name = name.trim_start_matches('.').trim_matches(['[', ']']).to_ascii_lowercase();
        // `example.org` and `.example.org` both mean the domain and all in it, and not
        // `notexample.org`.
        let inside = host
            .strip_suffix(name.as_str())
            .is_some_and(|before| before.is_empty() || before.ends_with('.'));
        (name == "*" || inside) && only_port.is_none_or(|only| only == port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        secure: bool,
        host: &str,
        port: u16,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<String> {
        let scheme = if secure { "https" } else { "http" };
        let to = OriginUrl::parse(&format!("{scheme}://{host}:{port}")).expect("a URL");
        let egress = Egress::from_environment(variable);
        egress.proxy_for(&to.server).expect("it can be used").map(|proxy| proxy.url.clone())
    }

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
            let chosen = chosen(secure, host, port, variable);
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
                let chosen = chosen(secure, host, 80, variable);
                assert_eq!(chosen.is_none(), is_direct, "{list:?} {host}");
            }
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_an_error_where_it_would_be_used() {
        #[rustfmt::skip]
        let table = [
            ("socks5://u:s@cret@h:1", "proxy socks5://***@h:1 from the environment: socks5 is not spoken; http is"),
            ("http://u:s@cret@h:port", "proxy http://***@h:port from the environment: it is no URL of a proxy"),
            ("us%3Aer:s@cret@h", "proxy http://***@h from the environment: it is no URL of a proxy"),
        ];
        for (url, expected) in table {
            let egress =
                Egress::from_environment(|name| (name == "http_proxy").then(|| url.to_string()));
            let proxy = |to: &str| {
                let to = OriginUrl::parse(to).expect("a URL");
                egress.proxy_for(&to.server).map(|proxy| proxy.is_some())
            };
            assert_eq!(proxy("http://h.test"), Err(expected.to_string()));
            assert_eq!(proxy("http://localhost"), Ok(false));
            assert_eq!(proxy("https://h.test"), Ok(false));
        }
    }
}
