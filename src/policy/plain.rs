//! What is plain: rules, requests and stored responses of which nothing has to be weighed. RFC 9111 §4.
//!
//! One table for both ways. The fast path (`proxy/fast_path.rs`) answers what is plain and nothing else; the
//! long way (`reuse.rs`) gives what is plain the same answer before it weighs anything. Whatever is not is
//! weighed by the long way alone, and has a row here that says so:
//!
//! | of | not plain is | because |
//! | --- | --- | --- |
//! | the rules (`ReuseRules::are_plain`) | `--cache-mode` | clients or the origin server do not have their say |
//! | | `--cache-size-limit 0` | nothing is reused |
//! | | `--hit-ttl` | each reuse is counted |
//! | a request (`Presented::is_plain`) | a method but GET and HEAD, content | nothing that is stored answers it |
//! | its fields ([`is_field_plain`]) | `Cache-Control`, `Range`, a condition | it asks for something else than what is stored |
//! | | `Via`, `Expect`, `Upgrade`, framing | it may not be answered here at all |
//! | a stored response ([`is_stored_plain`]) | selecting header fields | it is for some requests alone (§4.1) |
//! | | a part | it holds some ranges alone (§3.3) |
//! | | a redirect | where it leads depends on who asks |
//! | | `no-cache` | the origin server must be asked (§5.2.2.4) |
//! | | freshness by a guess, for a request with credentials | it may be another user's (§3.5) |
//! | | stale | it must be allowed (§4.2.4) |

use crate::clock::Timestamp;
use crate::policy::effect::Effect;
use crate::policy::stored::StoredHead;

/// Does a field with this effect leave a request plain? A second `Host` or `Connection` does not; the front
/// sees to that.
pub(crate) fn is_field_plain(effect: Effect) -> bool {
    // Credentials are weighed by the stored response's lifetime, in `is_stored_plain`. Spelled out, so that
    // a new effect does not compile until it is thought about here.
    match effect {
        Effect::Nothing
        | Effect::Host
        | Effect::Connection
        | Effect::Cookie
        | Effect::Authorization
        | Effect::Credentials => true,
        Effect::Directives
        | Effect::Range
        | Effect::IfRange
        | Effect::Condition
        | Effect::OriginCondition
        | Effect::Message => false,
    }
}

/// May a stored response be given to every plain request at `now`? A request `is_personal` if it has
/// credentials that count (`--share-credentials`).
pub(crate) fn is_stored_plain(stored: &StoredHead, is_personal: bool, now: Timestamp) -> bool {
    stored.selecting.is_empty()
        && stored.part.is_none()
        && !stored.status.is_redirection()
        && !stored.directives.no_cache
        && (stored.lifetime.is_explicit() || !is_personal)
        && stored.is_fresh(now)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, StatusCode};

    use super::*;
    use crate::clock::DeltaSeconds;
    use crate::message::fields::Fields;
    use crate::policy::cache_control::ResponseDirectives;
    use crate::policy::digest::Salt;
    use crate::policy::freshness::Lifetime;
    use crate::policy::range::{Part, Span};
    use crate::policy::reuse::{Judgement, Mode, Presented, ReuseRules, judge};
    use crate::policy::vary::{Selecting, Sent};

    const NOW: Timestamp = Timestamp(1_000_000);

    fn plain() -> StoredHead {
        StoredHead {
            status: StatusCode::OK,
            part: None,
            fields: Fields::new().into(),
            directives: ResponseDirectives::default(),
            selecting: Selecting::default(),
            lifetime: Lifetime::Heuristic(DeltaSeconds(60)),
            age_on_arrival: DeltaSeconds::ZERO,
            response_time: NOW,
            fresh_until: Timestamp(NOW.0 + 60_000),
            useful_until: Timestamp::MAX,
        }
    }

    fn selecting() -> Selecting {
        let vary = (HeaderName::from_static("vary"), HeaderValue::from_static("accept"));
        let (fields, salt) = (Fields::new(), Salt::new([0; 32]));
        let sent = Sent { fields: &fields, salt: &salt };
        Selecting::read(&[vary].into_iter().collect(), sent).expect("it names one field")
    }

    /// Each row of the table by itself; and what is plain is usable by the rules of the long way, too.
    #[test]
    fn what_is_plain_needs_no_weighing() {
        let rules = ReuseRules {
            mode: Mode::Standard,
            disabled: false,
            share_credentials: false,
            reuses_max: None,
            stale_while_revalidate: DeltaSeconds::ZERO,
            stale_if_error: DeltaSeconds::ZERO,
        };
        assert!(rules.are_plain());
        for weighed in [
            ReuseRules { mode: Mode::Force, ..rules },
            ReuseRules { mode: Mode::Offline, ..rules },
            ReuseRules { disabled: true, ..rules },
            ReuseRules { reuses_max: Some(1), ..rules },
        ] {
            assert!(!weighed.are_plain(), "{weighed:?}");
        }
        let span = Span { first: 0, last: 1 };
        let no_cache = ResponseDirectives { no_cache: true, ..ResponseDirectives::default() };
        let explicit = Lifetime::Explicit(DeltaSeconds(60));
        let later = Timestamp(NOW.0 + 5);
        // The response; is it plain for a request without credentials, and for one that has some?
        let table = [
            ("by a guess", plain(), true, false),
            ("explicit", StoredHead { lifetime: explicit, ..plain() }, true, true),
            ("selecting", StoredHead { selecting: selecting(), ..plain() }, false, false),
            (
                "part",
                StoredHead { part: Some(Part { span, complete: None }), ..plain() },
                false,
                false,
            ),
            ("redirect", StoredHead { status: StatusCode::FOUND, ..plain() }, false, false),
            ("no-cache", StoredHead { directives: no_cache, ..plain() }, false, false),
            ("stale", StoredHead { fresh_until: NOW, ..plain() }, false, false),
            // It came after the clock was read.
            (
                "stale on arrival",
                StoredHead { response_time: later, fresh_until: later, ..plain() },
                false,
                false,
            ),
        ];
        for (name, stored, to_all, to_personal) in table {
            for (cookie, expected) in [(false, to_all), (true, to_personal)] {
                assert_eq!(is_stored_plain(&stored, cookie, NOW), expected, "{name} {cookie}");
                let presented = Presented { get: true, cookie, ..Presented::default() };
                assert!(presented.is_plain());
                if expected {
                    let judged = judge(&presented, &stored, false, NOW, &rules);
                    assert_eq!(judged, Judgement::Usable, "{name} {cookie}");
                }
            }
        }
    }
}
