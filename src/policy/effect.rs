//! Which request fields can make a difference to how a cache answers. RFC 9111 §4, §5.2.1.
//!
//! One table serves the long way, which reads them all into
//! [`Presented`](crate::policy::reuse::Presented), and the fast one, which answers only where none of them
//! does. A field that is given an effect here is heeded by both, because neither compiles without it.

use crate::policy::credentials::is_credential;

/// What a request field makes a difference to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// To nothing that a cache does: at most the origin server heeds it, or `Vary` names it.
    Nothing,
    /// `Host`
    Host,
    /// `Connection`: whether the connection persists, and which fields are about it alone.
    Connection,
    /// `Cookie`
    Cookie,
    /// `Authorization`
    Authorization,
    /// Credentials by another name, or the name of a tenant.
    Credentials,
    /// `Cache-Control`
    Directives,
    /// `Range`
    Range,
    /// `If-Range`
    IfRange,
    /// A condition that a cache evaluates (§4.3.2).
    Condition,
    /// A condition that the origin server alone evaluates (§4.3.2).
    OriginCondition,
    /// To the framing of the message, its connection, or its way: the front sees to it when it reads
    /// the request.
    Message,
}

/// The effect of a field of this name, in any case. Nothing is copied: this is asked for every field of
/// every hit.
pub fn effect_of(name: &str) -> Effect {
    // Few names have the length of one of these, and of those hardly any is compared twice.
    let known: &[(&str, Effect)] = match name.len() {
        3 => &[("via", Effect::Message)],
        4 => &[("host", Effect::Host)],
        5 => &[("range", Effect::Range)],
        6 => &[("cookie", Effect::Cookie), ("expect", Effect::Message)],
        7 => &[("upgrade", Effect::Message)],
        8 => &[("if-match", Effect::OriginCondition), ("if-range", Effect::IfRange)],
        10 => &[("connection", Effect::Connection)],
        13 => &[
            ("authorization", Effect::Authorization),
            ("cache-control", Effect::Directives),
            ("if-none-match", Effect::Condition),
        ],
        14 => &[("content-length", Effect::Message)],
        17 => &[("if-modified-since", Effect::Condition), ("transfer-encoding", Effect::Message)],
        19 => &[("if-unmodified-since", Effect::OriginCondition)],
        _ => &[],
    };
    match known.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)) {
        Some((_, effect)) => *effect,
        // Last, because it compares with many names; by length alone most fields never come here.
        None if is_credential(name) => Effect::Credentials,
        None => Effect::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        #[rustfmt::skip]
        let table = [
            ("Via", Effect::Message), ("HOST", Effect::Host), ("range", Effect::Range),
            ("Cookie", Effect::Cookie), ("Expect", Effect::Message), ("Upgrade", Effect::Message),
            ("If-Match", Effect::OriginCondition), ("If-Range", Effect::IfRange),
            ("connection", Effect::Connection), ("Authorization", Effect::Authorization),
            ("Cache-Control", Effect::Directives), ("If-None-Match", Effect::Condition),
            ("Content-Length", Effect::Message), ("If-Modified-Since", Effect::Condition),
            ("Transfer-Encoding", Effect::Message), ("If-Unmodified-Since", Effect::OriginCondition),
            ("X-API-Key", Effect::Credentials), ("X-Tenant", Effect::Credentials),
            ("Accept", Effect::Nothing), ("Pragma", Effect::Nothing), ("", Effect::Nothing),
        ];
        for (name, expected) in table {
            assert_eq!(effect_of(name), expected, "{name}");
        }
    }
}
