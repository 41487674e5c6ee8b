//! Who may use the control interface over TCP: this machine, or who has the token; and of all pages that a
//! browser shows, the interface's own alone.
//!
//! A site can have its name resolve to an address of ours (DNS rebinding): the browser still sends the site's
//! name as Host. Where a page of another site asks, the browser sends Origin, or says so in Sec-Fetch-Site. What
//! changes anything needs the page's token besides, which no other page can read. The Unix socket needs none of
//! this: its permissions say who may connect.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode};
use parking_lot::Mutex;

use crate::control::query::Query;
use crate::message::request::Request;
use crate::message::target::{is_loopback, split_authority};
use crate::origin::RequestContent;
use crate::policy::digest::hexadecimal;
use crate::store::salt;

/// Below this path the page is served once somebody has logged in: the session's cookie goes nowhere else, above
/// all not to the port that clients use, for browsers send cookies to all ports of a host.
pub(super) const PAGE_PATH: &str = "/control-page/";
/// What stands before the token of `--admin-token`.
const BEARER: &[u8] = b"Bearer ";
/// The field in which the page sends its token.
const PAGE_TOKEN: &str = "x-page-token";
/// Sessions at a time; the oldest ends for one more.
const SESSIONS_MAX: usize = 32;
/// How long a session lasts.
const SESSION_MAX: Duration = Duration::from_secs(12 * 3600);
/// Wrong tokens that one address may send within [`ATTEMPTS_SPAN`].
const ATTEMPTS_MAX: u32 = 10;
/// See [`ATTEMPTS_MAX`].
const ATTEMPTS_SPAN: Duration = Duration::from_secs(60);
/// Addresses of which attempts are remembered; others have to wait for one of them.
const ADDRESSES_MAX: usize = 1024;
/// The longest content of a login, in bytes.
const LOGIN_BYTES_MAX: u64 = 4096;

/// How long the content of a login may take, and one piece of it more.
const READING_MAX: Duration = Duration::from_secs(5);

/// Why a request is refused.
pub(super) type Refusal = (StatusCode, &'static str);

/// Who may do what.
pub(super) struct Access {
    /// Clients over TCP must present it; `None` admits loopback addresses alone.
    token: Option<String>,
    /// Random, for this process.
    page_token: String,
    /// The oldest first.
    sessions: Mutex<Vec<Session>>,
    /// Wrong tokens, by the address that has sent them.
    attempts: Mutex<HashMap<IpAddr, Attempts>>,
    /// Held while the content of a login is read: a slow client must not take more than one worker.
    reading: Mutex<()>,
}

/// Somebody has logged in.
struct Session {
    id: String,
    /// The host and port that the browser has asked then: the session is for no other.
    authority: String,
    until: Instant,
}

/// Wrong tokens of one address.
struct Attempts {
    count: u32,
    since: Instant,
}

impl Access {
    /// For those who have `token`; without one, for this machine alone.
    pub(super) fn new(token: Option<String>) -> Self {
        let (sessions, attempts, reading) = Default::default();
        Self { token, page_token: random(), sessions, attempts, reading }
    }

    /// What the page sends with each change.
    pub(super) fn page_token(&self) -> &str {
        &self.page_token
    }

    /// Do clients log in?
    pub(super) fn has_login(&self) -> bool {
        self.token.is_some()
    }

    /// Admits a request from `client`, or says why not; `path` is without the page's own beginning.
    pub(super) fn admit(
        &self,
        request: &Request,
        client: SocketAddr,
        path: &str,
    ) -> Result<(), Refusal> {
        self.check_site(request, path)?;
        let Some(token) = &self.token else {
            let names_us = request.authority().and_then(split_authority);
            if !client.ip().is_loopback() || !names_us.is_some_and(|(host, _)| is_loopback(&host)) {
                return Err((StatusCode::FORBIDDEN, "for this machine alone; see --admin-token"));
            }
            return Ok(());
        };
        // Load balancers and container hosts check health without a token, and learn nothing else. The form
        // that asks for the token needs its style.
        if ["/health", "/page.css", "/login"].contains(&path) {
            return Ok(());
        }
        let given = request.fields.get("authorization").map(HeaderValue::as_bytes);
        // The name of a scheme may be written in any case (RFC 9110 §11.1).
        let given = given.and_then(|given| given.split_at_checked(BEARER.len()));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER));
        if given.is_some_and(|(_, given)| is_same(given, token.as_bytes())) {
            return Ok(());
        }
        if self.session(request).is_some() {
            return Ok(());
        }
        let text = "expected Authorization: Bearer with the token of --admin-token";
        Err((StatusCode::UNAUTHORIZED, text))
    }

    /// Admits a change: from a browser, only with the page's token. Others are admitted already.
    pub(super) fn admit_change(&self, request: &Request) -> Result<(), Refusal> {
        if !is_from_browser(request) && self.session(request).is_none() {
            return Ok(());
        }
        let given = request.fields.get(PAGE_TOKEN).map(HeaderValue::as_bytes);
        if given.is_some_and(|given| is_same(given, self.page_token.as_bytes())) {
            return Ok(());
        }
        Err((
            StatusCode::FORBIDDEN,
            "expected X-Page-Token with the token of the page; load it again",
        ))
    }

    /// Refuses what a page of another site asks for.
    fn check_site(&self, request: &Request, path: &str) -> Result<(), Refusal> {
        const FOREIGN: Refusal =
            (StatusCode::FORBIDDEN, "for the page of this address alone: Origin is another site's");
        let mut origins = request.fields.get_all("origin");
        if let Some(origin) = origins.next() {
            let own = request.authority().unwrap_or_default();
            let origin = origin.to_str().unwrap_or_default();
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            let is_own = authority.is_some_and(|authority| authority.eq_ignore_ascii_case(own));
            if !is_own || origins.next().is_some() {
                return Err(FOREIGN);
            }
        }
        let named = |name: &str, value: &str| {
            request.fields.get(name).is_some_and(|other| other.as_bytes() == value.as_bytes())
        };
        let is_foreign =
            ["cross-site", "same-site"].iter().any(|site| named("sec-fetch-site", site));
        // A link may lead here from anywhere; nothing else may.
        let is_link = request.method == Method::GET
            && path == "/"
            && named("sec-fetch-mode", "navigate")
            && named("sec-fetch-dest", "document");
        if is_foreign && !is_link {
            return Err(FOREIGN);
        }
        // The cookie is the host's that has logged in: another name that leads here has none of it.
        match self.session(request) {
            Some(authority) if Some(&*authority) != request.authority() => {
                Err((StatusCode::FORBIDDEN, "the session is for another Host; log in again"))
            }
            _ => Ok(()),
        }
    }

    /// The host and port of the session that a request names, if there is one.
    fn session(&self, request: &Request) -> Option<String> {
        let id = session_id(request)?;
        let mut sessions = self.sessions.lock();
        let now = Instant::now();
        sessions.retain(|session| now < session.until);
        let session = sessions.iter().find(|one| is_same(one.id.as_bytes(), id.as_bytes()))?;
        Some(session.authority.clone())
    }

    /// Logs in: the value of `Set-Cookie`, if the content has the token.
    pub(super) fn log_in(
        &self,
        request: &Request,
        client: SocketAddr,
        content: RequestContent<'_>,
    ) -> Result<String, Refusal> {
        const LATER: Refusal = (StatusCode::TOO_MANY_REQUESTS, "too many attempts; wait a minute");
        let expected = self
            .token
            .as_deref()
            .ok_or((StatusCode::NOT_FOUND, "there is no login without --admin-token"))?;
        if !self.may_try(client.ip()) {
            return Err(LATER);
        }
        let Some(_reading) = self.reading.try_lock() else {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "somebody else logs in; try again"));
        };
        let given = login_token(content, Instant::now() + READING_MAX)?;
        if !is_same(given.trim().as_bytes(), expected.as_bytes()) {
            self.note_wrong(client.ip());
            log::warn!("control: a login from {} with a wrong token", client.ip());
            return Err((StatusCode::UNAUTHORIZED, "this is not the token of --admin-token"));
        }
        let authority = request.authority().unwrap_or_default().to_string();
        let (id, until) = (random(), Instant::now() + SESSION_MAX);
        let cookie = format!(
            "{}={id}; Path={PAGE_PATH}; Max-Age={}; HttpOnly; SameSite=Strict",
            cookie_name(request),
            SESSION_MAX.as_secs()
        );
        let mut sessions = self.sessions.lock();
        if sessions.len() == SESSIONS_MAX {
            sessions.remove(0);
        }
        sessions.push(Session { id, authority, until });
        Ok(cookie)
    }

    /// Ends the session that a request names.
    pub(super) fn log_out(&self, request: &Request) {
        let id = session_id(request).unwrap_or_default();
        self.sessions.lock().retain(|session| !is_same(session.id.as_bytes(), id.as_bytes()));
    }

    /// May this address send another token?
    fn may_try(&self, address: IpAddr) -> bool {
        let mut attempts = self.attempts.lock();
        let now = Instant::now();
        attempts.retain(|_, attempts| now < attempts.since + ATTEMPTS_SPAN);
        match attempts.get(&address) {
            Some(attempts) => attempts.count < ATTEMPTS_MAX,
            None => attempts.len() < ADDRESSES_MAX,
        }
    }

    fn note_wrong(&self, address: IpAddr) {
        let since = Instant::now();
        let mut attempts = self.attempts.lock();
        attempts.entry(address).or_insert(Attempts { count: 0, since }).count += 1;
    }
}

/// The token in the content of a login form, which is to come by `deadline`.
fn login_token(content: RequestContent<'_>, deadline: Instant) -> Result<String, Refusal> {
    const EXPECTED: Refusal = (StatusCode::BAD_REQUEST, "login: expected token=TOKEN as content");
    let (length, reader) = match content {
        RequestContent::Length(length, reader) if length <= LOGIN_BYTES_MAX => (length, reader),
        RequestContent::None => return Err(EXPECTED),
        RequestContent::Length(..) | RequestContent::Chunked(_) => {
            let text = "login: expected a Content-Length of at most 4096";
            return Err((StatusCode::PAYLOAD_TOO_LARGE, text));
        }
    };
    let (mut bytes, mut filled) = (vec![0; length as usize], 0);
    while filled < bytes.len() {
        // A client that stops is ended by the front; one that sends a byte now and then would keep others out.
        if Instant::now() > deadline {
            return Err((StatusCode::REQUEST_TIMEOUT, "login: the content came too slowly"));
        }
        match reader.read(&mut bytes[filled..]) {
            Ok(count) if count > 0 => filled += count,
            _ => return Err(EXPECTED),
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| EXPECTED)?;
    Query::read(&text).get("token").map(str::to_string).ok_or(EXPECTED)
}

/// A browser says so in fields that no page's script can leave out.
fn is_from_browser(request: &Request) -> bool {
    ["origin", "sec-fetch-site", "sec-fetch-mode"].iter().any(|name| request.fields.contains(name))
}

/// The session that a request's cookies name, if they name one.
fn session_id(request: &Request) -> Option<String> {
    let name = cookie_name(request);
    request.fields.get_all("cookie").find_map(|line| {
        let pairs = line.to_str().ok()?.split(';');
        let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(other, _)| *other == name).map(|(_, id)| id.to_string())
    })
}

/// The name of the session's cookie. Cookies are for all ports of a host, where several proxies may run.
fn cookie_name(request: &Request) -> String {
    let port = request.authority().and_then(split_authority).and_then(|(_, port)| port);
    format!("proxy-session-{}", port.unwrap_or(80))
}

/// A word that nobody can guess.
fn random() -> String {
    hexadecimal(salt::random().bytes())
}

/// Compares in a time that does not depend on how much agrees, so that nobody finds the token byte by byte.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |all, (one, other)| all | (one ^ other));
    one.len() == other.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http::Version;

    use super::*;
    use crate::message::fields::Fields;

    const TOKEN: &str = "0123456789abcdef";

    fn request(cookie: &str) -> Request {
        let mut fields = Fields::new();
        fields.set_text("host", "h:3001".to_string());
        fields.set_text("cookie", cookie.to_string());
        Request::new(Method::GET, "/", Version::HTTP_11, fields, None).expect("a request")
    }

    fn log_in(access: &Access, address: u32, token: &str) -> Result<String, Refusal> {
        let content = format!("token={token}");
        let client = SocketAddr::from((Ipv4Addr::from(address), 1));
        let length = content.len() as u64;
        let content = RequestContent::Length(length, &mut content.as_bytes());
        access.log_in(&request("a=b"), client, content)
    }

    #[test]
    fn the_oldest_session_ends_for_one_more_than_there_may_be() {
        let access = Access::new(Some(TOKEN.to_string()));
        let session =
            |cookie: &str| access.session(&request(cookie.split(';').next().expect("a pair")));
        let cookies: Vec<String> =
            (0..=SESSIONS_MAX).map(|_| log_in(&access, 1, TOKEN).expect("a session")).collect();
        assert_eq!(access.sessions.lock().len(), SESSIONS_MAX);
        assert_eq!(session(&cookies[0]), None);
        assert!(cookies[1..].iter().all(|cookie| session(cookie).as_deref() == Some("h:3001")));
    }

    #[test]
    fn a_login_has_so_much_time_and_no_more() {
        let read = |deadline| {
            let mut content = "token=abc".as_bytes();
            login_token(RequestContent::Length(9, &mut content), deadline)
        };
        let now = Instant::now();
        assert_eq!(read(now + READING_MAX).as_deref(), Ok("abc"));
        let late = read(now.checked_sub(READING_MAX).expect("seconds ago"));
        assert_eq!(late.map_err(|(status, _)| status), Err(StatusCode::REQUEST_TIMEOUT));
    }

    #[test]
    fn attempts_are_remembered_of_so_many_addresses_and_no_more() {
        let access = Access::new(Some(TOKEN.to_string()));
        for address in 0..ADDRESSES_MAX as u32 {
            assert!(log_in(&access, address, "wrong").is_err());
        }
        assert_eq!(access.attempts.lock().len(), ADDRESSES_MAX);
        let status = |address| log_in(&access, address, TOKEN).map_err(|(status, _)| status).err();
        assert_eq!(status(ADDRESSES_MAX as u32), Some(StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(status(0), None, "an address that is known has more attempts");
        // Once the span is over all of them are forgotten.
        for attempts in access.attempts.lock().values_mut() {
            attempts.since = Instant::now().checked_sub(ATTEMPTS_SPAN).expect("a minute ago");
        }
        assert_eq!(status(ADDRESSES_MAX as u32), None);
    }
}
