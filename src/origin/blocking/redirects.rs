//! Redirects that are followed on this side (`--follow-redirects`). RFC 9110 §15.4.

use crate::message::reference::resolve;
use crate::message::target::split_authority;
use crate::origin::{OriginError, OriginRequest, OriginResponse, RequestContent};
use crate::policy::credentials::is_credential;

/// The most redirects that are followed for one request.
pub const REDIRECTS_MAX: usize = 10;

/// Sends a GET or HEAD and follows redirects until another response comes.
///
/// `send` is called for each request that is sent.
pub fn send_and_follow(
    request: OriginRequest<'_, '_>,
    send: impl Fn(OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError>,
) -> Result<OriginResponse, OriginError> {
    let OriginRequest { method, url, waits, mut host, .. } = request;
    let interim = request.interim.clone();
    let mut url = url.to_string();
    let mut fields = request.fields.clone();
    let mut response = send(request)?;
    let mut followed = 0;
    while let Some(next) = redirect_target(&url, &response) {
        if followed == REDIRECTS_MAX {
            return Err(OriginError::Redirects { followed });
        }
        followed += 1;
        drop(response.body.take());
        if authority_of(&next) != authority_of(&url) {
            // What the client says to one server is not for another's ears, nor by which name it knows it.
            fields.retain(|name, _| !is_credential(name.as_str()));
            host = None;
        }
        url = next;
        let (content, interim) = (RequestContent::None, interim.clone());
        let fields = &fields;
        response =
            send(OriginRequest { method, url: &url, host, fields, content, waits, interim })?;
    }
    Ok(response)
}

/// Where a response redirects to, if it does, and if it can be followed.
fn redirect_target(url: &str, response: &OriginResponse) -> Option<String> {
    if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    resolve(url, response.fields.get("location")?.to_str().ok()?)
}

/// Scheme, host and port of an absolute URI.
fn authority_of(url: &str) -> Option<(String, Option<u16>)> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, port) = split_authority(rest.split(['/', '?']).next()?)?;
    Some((format!("{scheme}://{host}"), port))
}
