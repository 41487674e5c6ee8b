//! GETs over plain HTTP to a proxy on this machine, as any client would send them: `proxy warm` asks a running
//! proxy so. What an origin server is asked goes through `client.rs`.

use std::io::{self, Read};
use std::time::Duration;

/// To connect to a proxy on this machine.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A client that follows no redirect and uses no proxy.
pub struct PlainClient(ureq::Agent);

/// A response: its status, the last line of `Cache-Status`, and the first bytes of its content.
pub struct PlainResponse {
    /// The status, whatever it is.
    pub status: u16,
    /// What the proxy that was asked says of its cache; empty if it says nothing.
    pub cache_status: String,
    /// As much as was asked for.
    pub content: Vec<u8>,
}

impl PlainClient {
    /// A client that waits for the head of a response for `silence_max` at most.
    pub fn new(silence_max: Duration) -> Self {
        // ureq's defaults are for applications: redirects are the cache's to store, an error status is
        // an outcome, and a proxy from the environment would not reach this machine.
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_recv_response(Some(silence_max))
            .timeout_recv_body(None);
        Self(config.build().new_agent())
    }

    /// Sends a GET with one field besides those that HTTP asks for, and reads the response to its end; the
    /// first `kept_max` bytes of the content are kept. An error if there is no response, or a cut one.
    pub fn get(
        &self,
        url: &str,
        (name, value): (&str, &str),
        kept_max: u64,
    ) -> Result<PlainResponse, String> {
        let response = self.0.get(url).header(name, value).call();
        let mut response = response.map_err(|error| error.to_string())?;
        // RFC 9211 §2: each cache adds itself at the end, so the last one is the proxy that was asked.
        let line = response.headers().get_all("cache-status").iter().next_back();
        let cache_status = line.and_then(|line| line.to_str().ok()).unwrap_or_default().to_string();
        let mut content = Vec::new();
        let mut reader = response.body_mut().as_reader();
        let read = (&mut reader).take(kept_max).read_to_end(&mut content);
        let read = read.and_then(|_| io::copy(&mut reader, &mut io::sink()));
        read.map_err(|error| format!("cut short: {error}"))?;
        Ok(PlainResponse { status: response.status().as_u16(), cache_status, content })
    }
}
