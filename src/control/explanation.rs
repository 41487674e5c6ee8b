//! `proxy explain`: what would the proxy do with this request, and why? The words alone; the engine decides.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Version};

use crate::clock::{DeltaSeconds, Timestamp};
use crate::message::date;
use crate::message::fields::{FieldSection, FieldValues, Fields};
use crate::message::request::Request;
use crate::policy::credentials::redacted;
use crate::policy::forwarded::Believed;
use crate::policy::freshness::Lifetime;
use crate::policy::stored::StoredHead;
use crate::proxy::explain::{Explained, Explanation};
use crate::proxy::{BlockingDriver, Proxy};

/// The request that a command line describes. `target` is a path, or a URL of the origin server; `fields` are
/// `Name: value`, and `host` is added as Host if they have none.
pub fn request(target: &str, fields: &[String], host: &str) -> Result<Request, String> {
    let mut lines = Fields::new();
    for line in fields {
        let wrong = || format!("-H {line:?}: not a field; expected 'Name: value'");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        lines.append(name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?);
    }
    // HTTP/1.1 asks for one (RFC 9112 §3.2), and the key may depend on it (--preserve-host).
    if !lines.contains("host") {
        lines.set_text("host", host.to_string());
    }
    let path = if target.starts_with('/') || target.contains("://") {
        target.to_string()
    } else {
        format!("/{target}")
    };
    Request::new(Method::GET, &path, Version::HTTP_11, lines, None)
        .map_err(|error| format!("explain {}: {error}", redacted(target)))
}

/// Makes the request and describes the outcome, step by step. The error is such a description as well, of a
/// request that got no response: neither the origin server's nor a stored one.
pub fn explain(driver: &BlockingDriver, request: Request) -> Result<String, String> {
    let explanation = match driver.explain(&Arc::new(request)) {
        Ok(explanation) => explanation,
        Err((status, cache_status)) => {
            let text = format!("answered {status} without asking: {cache_status}");
            // A refusal (4xx) is what the proxy does with such a request, and so the explanation asked for.
            return if status.is_server_error() { Err(text) } else { Ok(text + "\n") };
        }
    };
    let mut text = String::new();
    let Explanation { key, believed, shaped_by, url, sent, received, cache_status } = explanation;
    if let Some(believed) = what_is_believed(&believed) {
        let _ = writeln!(text, "Believed:   {believed}");
    }
    let _ = writeln!(text, "Cache key:  {key}");
    if let Some(shaped_by) = shaped_by {
        let _ = writeln!(text, "            from {shaped_by}");
    }
    let _ = writeln!(text, "Asked:      GET {url}");
    list(&mut text, &(&sent).into());
    let explained = match received {
        Ok(explained) => explained,
        Err(error) => {
            let _ = write!(text, "\nAnswered:   nothing\n  {}\n", error.text);
            remedy(&mut text, error.detail.remedy());
            return Err(text);
        }
    };
    let content = match &explained.content {
        Ok(bytes) => format!("{bytes} bytes of content"),
        Err(error) => error.clone(),
    };
    let _ = write!(text, "\nAnswered:   {}, {content}\n", explained.judged.status);
    list(&mut text, &(&explained.judged.fields).into());
    storing(&mut text, &explained);
    freshness(&mut text, driver.proxy(), &explained);
    if let Some(stored) = &explained.stored {
        let _ = write!(text, "\nFields to store:\n");
        list(&mut text, &stored.fields);
    }
    let _ = write!(
        text,
        "\nThis request:       {cache_status}\nThe same one next:  {}\n",
        explained.again
    );
    Ok(text)
}

/// What the proxy believes because a trusted peer has said it (`--trust-forwarded`); `None` if nothing.
fn what_is_believed(believed: &Believed) -> Option<String> {
    let Believed { client, is_hidden, scheme, host, .. } = believed;
    // A proxy that hides its client is believed, too: what it says is that the client is not known.
    let client = match client {
        _ if *is_hidden => Some("client not known".to_string()),
        client => client.map(|client| format!("client {client}")),
    };
    let scheme = scheme.map(|scheme| format!("scheme {}", scheme.as_str()));
    let host = host.as_ref().map(|host| format!("host {host}"));
    let all: Vec<String> = [client, scheme, host].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(", "))
}

pub(super) fn list(text: &mut String, fields: &FieldSection) {
    for line in String::from_utf8_lossy(fields.as_bytes()).lines() {
        let _ = writeln!(text, "  {line}");
    }
}

fn remedy(text: &mut String, remedy: Option<&str>) {
    if let Some(remedy) = remedy {
        let _ = writeln!(text, "        what would change it: {remedy}");
    }
}

fn storing(text: &mut String, explained: &Explained) {
    let verdict =
        if explained.stored.is_some() { "it would be stored" } else { "it would not be stored" };
    let _ = write!(text, "\nStoring:    {verdict}\n");
    for check in &explained.judged.checks {
        // Of one width, so that the rules stand below each other.
        let mark = if check.verdict.is_ok() { "yes" } else { "NO " };
        let _ = writeln!(text, "  {mark}   {} ({})", check.rule, check.section);
        if let Err(detail) = check.verdict {
            remedy(text, detail.remedy());
        }
    }
}

fn freshness(text: &mut String, proxy: &Proxy, explained: &Explained) {
    let (lifetime, source) = explained.judged.lifetime;
    let cache_ttl = explained.judged.cache_ttl;
    let span = match (lifetime, cache_ttl) {
        (Lifetime::Unknown, _) => "none".to_string(),
        (Lifetime::Operator(_), Some(cache_ttl)) => exactly(cache_ttl),
        // The operator has said "for ever": a number of seconds would hide that.
        (Lifetime::Operator(DeltaSeconds::MAX), None) => "until cleared".to_string(),
        (lifetime, _) => format!("{} s", lifetime.span().0),
    };
    let _ = write!(text, "\nFreshness:\n  lifetime          {span}: {source}\n");
    if let (Lifetime::Explicit(_) | Lifetime::Heuristic(_), Some(most)) = (lifetime, cache_ttl) {
        let _ = writeln!(text, "  at most           {} after it came: --cache-ttl", exactly(most));
    }
    let age = explained.judged.age;
    let _ = writeln!(
        text,
        "  age on arrival    {age} s: Age, Date and the time it took (RFC 9111 §4.2.3)"
    );
    if let Some(stored) = &explained.stored {
        until(text, proxy, stored, proxy.now());
    }
}

/// A span of the operator's, which may have parts of a second.
fn exactly(span: Duration) -> String {
    match span.subsec_millis() {
        0 => format!("{} s", span.as_secs()),
        _ => format!("{} ms", span.as_millis()),
    }
}

/// Describes for how long a stored response can be reused, and what happens to it once it is stale.
pub(super) fn until(text: &mut String, proxy: &Proxy, stored: &StoredHead, now: Timestamp) {
    match stored.freshness_left(now) {
        None => text.push_str("  fresh             until it is cleared or evicted\n"),
        Some(left) => {
            let until = date::format(stored.fresh_until);
            let left = match left {
                0 => exactly(Duration::from_millis(stored.fresh_until.0.saturating_sub(now.0))),
                left => format!("{left} s"),
            };
            let _ = writeln!(text, "  fresh             for {left}, until {until}");
        }
    }
    // Besides the lifetime: no-cache holds for what is fresh as well (§5.2.2.4).
    if stored.directives.no_cache {
        text.push_str("  reuse             after validation only: no-cache (RFC 9111 §5.2.2.4)\n");
    }
    if stored.directives.prohibits_stale() {
        text.push_str("  when stale        never served: must-revalidate, proxy-revalidate, s-maxage or no-cache\n");
    } else if stored.freshness_left(now).is_some() {
        // The response's own directives come before the flags (RFC 5861 §3, §4).
        let rules = &proxy.reuse_rules();
        let own = stored.directives.stale_if_error.unwrap_or(rules.stale_if_error);
        let background =
            stored.directives.stale_while_revalidate.unwrap_or(rules.stale_while_revalidate);
        let _ = writeln!(
            text,
            "  when stale        for {} s if the origin server fails (--stale-if-error), for {} s while \
             a new one is fetched (--stale-while-revalidate)",
            own.0, background.0
        );
    }
    let validators: Vec<&str> =
        ["etag", "last-modified"].into_iter().filter(|name| stored.fields.contains(name)).collect();
    let validators = if validators.is_empty() { "none".to_string() } else { validators.join(", ") };
    let _ = writeln!(text, "  validators        {validators}");
    if !stored.selecting.is_empty() {
        // The field as it came: the selecting values are shown elsewhere, and may be digests.
        let vary: Vec<String> = stored
            .fields
            .values("vary")
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .collect();
        let _ = writeln!(text, "  selecting fields  {} (Vary)", vary.join(", "));
    }
}
