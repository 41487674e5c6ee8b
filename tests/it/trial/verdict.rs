//! Which answers the script of an exchange allows.

use super::super::support::wire::Head;
use super::content::Arriving;
use super::script::{Early, Exchange, Expectation, Range, Wants, answer_name};

/// Statuses that say that the origin server gave no usable answer.
const GATEWAY: [u16; 2] = [502, 504];

/// An answer whose head may have come of the exchange.
pub struct Judged {
    /// The proxy has made it: nothing is known of its content.
    pub is_own: bool,
    /// The name of the content, and which part of it has to come.
    pub name: String,
    pub first: u64,
    pub length: u64,
    pub arriving: Arriving,
    /// The connection goes on behind it.
    pub keeps: bool,
}

/// Looks at the head of a final answer.
pub fn judge(exchange: &Exchange, head: &Head) -> Result<Judged, String> {
    let status: u16 = head.word(1).parse().map_err(|_| "no status".to_string())?;
    let mut judged = Judged {
        is_own: false,
        name: answer_name(&exchange.id, &exchange.selecting()),
        first: 0,
        length: 0,
        arriving: framing(exchange, head, status)?,
        keeps: keeps(exchange, head),
    };
    let id = head.field("x-id");
    if id.is_empty() && GATEWAY.contains(&status) {
        judged.is_own = true;
        return Ok(judged);
    }
    if id != exchange.id {
        return Err(format!("the answer is {id:?}'s, or the proxy's"));
    }
    (judged.first, judged.length) = selected(exchange, head, status)?;
    if exchange.method == "HEAD" || matches!(status, 204 | 304) {
        judged.length = 0;
    }
    check_fields(exchange, head, status)?;
    if !judged.keeps && !may_close(exchange) {
        return Err("the connection ends, and nobody has asked for that".into());
    }
    Ok(judged)
}

/// Which part of the content an answer with this status has.
fn selected(exchange: &Exchange, head: &Head, status: u16) -> Result<(u64, u64), String> {
    let answer = &exchange.answer;
    let part = match exchange.wants {
        Wants::Part(range) if answer.status == 200 => Some(range),
        _ => None,
    };
    match (status, part) {
        (304, _) if matches!(exchange.wants, Wants::IfNoneMatch { has_it: true }) => Ok((0, 0)),
        (206, Some(range)) => match range.of(answer.size) {
            Some((first, length)) if is_part(head, first, length, answer.size) => {
                Ok((first, length))
            }
            _ => Err("another part than was asked for".into()),
        },
        (416, Some(range)) if range.of(answer.size).is_none() => Ok((0, 0)),
        _ if status == answer.status => Ok((0, answer.size)),
        _ => Err(format!("the script has the status {}", answer.status)),
    }
}

fn is_part(head: &Head, first: u64, length: u64, size: u64) -> bool {
    let last = first + length - 1;
    head.field("content-range") == format!("bytes {first}-{last}/{size}")
}

fn check_fields(exchange: &Exchange, head: &Head, status: u16) -> Result<(), String> {
    let answer = &exchange.answer;
    let tag = answer.tag(&exchange.id, &exchange.selecting());
    if status == 200 && head.field("etag") != tag.unwrap_or_default() {
        return Err("another's entity tag".into());
    }
    if let Some(upload) = &exchange.upload
        && !is_early(exchange)
        && head.field("x-upload") != upload.size.to_string()
    {
        return Err("the origin server has had another upload".into());
    }
    let length = head.field("content-length");
    let is_whole = exchange.method == "HEAD" && status == answer.status && status != 204;
    if is_whole && !length.is_empty() && length != answer.size.to_string() {
        return Err("a GET has another length".into());
    }
    Ok(())
}

/// May the answer come before the content of the request?
pub fn is_early(exchange: &Exchange) -> bool {
    let answer = &exchange.answer;
    answer.early != Early::No || answer.expectation == Expectation::Refuses
}

/// Is there a reason for the proxy to end the connection with the answer of the origin server?
fn may_close(exchange: &Exchange) -> bool {
    exchange.closes || exchange.half_closes || exchange.is_old || is_early(exchange)
}

fn framing(exchange: &Exchange, head: &Head, status: u16) -> Result<Arriving, String> {
    let (coding, length) = (head.field("transfer-encoding"), head.field("content-length"));
    if exchange.method == "HEAD" || matches!(status, 204 | 304) {
        return Ok(Arriving::Over);
    }
    match (&*coding, &*length) {
        ("chunked", "") if !exchange.is_old => Ok(Arriving::chunked()),
        ("", "") if exchange.is_old => Ok(Arriving::UntilClose),
        ("", length) => length.parse().map(Arriving::Length).map_err(|_| "no framing".into()),
        _ => Err("framing that this client does not know".into()),
    }
}

fn keeps(exchange: &Exchange, head: &Head) -> bool {
    let connection = head.field("connection").to_ascii_lowercase();
    if exchange.is_old { connection == "keep-alive" } else { connection != "close" }
}

/// Looks at an interim response.
pub fn judge_interim(exchange: &Exchange, head: &Head, count: u64) -> Result<(), String> {
    let waits = exchange
        .upload
        .as_ref()
        .is_some_and(|upload| upload.expects != super::script::Expects::Nothing);
    match head.word(1) {
        _ if exchange.is_old => Err("an interim response, which HTTP/1.0 does not know".into()),
        // A client that has closed its side is asked whether it is there.
        "100" if waits || exchange.half_closes => Ok(()),
        "103" if head.field("x-id") != exchange.id => Err("another's interim response".into()),
        // A request that is repeated may bring them once more.
        "103" if count <= 2 * exchange.answer.hints => Ok(()),
        _ => Err("an interim response that the script does not have".into()),
    }
}

#[test]
fn ranges_select_bytes() {
    let range = |field: &str| Range::read(&format!("bytes={field}")).expect("a range");
    #[rustfmt::skip]
    let table = [
        ("0-0", 10, Some((0, 1))), ("3-5", 10, Some((3, 3))), ("3-", 10, Some((3, 7))), ("-3", 10, Some((7, 3))),
        ("-30", 10, Some((0, 10))), ("3-50", 10, Some((3, 7))), ("10-", 10, None), ("-0", 10, None),
        ("-5", 0, None), ("0-", 0, None),
    ];
    for (field, size, expected) in table {
        assert_eq!(range(field).of(size), expected, "{field} of {size}");
        assert_eq!(range(field).field(), format!("bytes={field}"));
    }
}
