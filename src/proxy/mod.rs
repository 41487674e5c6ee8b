//! The engine, where policy and cache meet, and nowhere else. It is a sequence of steps; each takes facts,
//! decides, and says what is wanted next. No step waits, but [`Proxy::recall`], and none does network I/O: a driver
//! does, of which [`BlockingDriver`] is one.
//!
//! | step | takes | gives | in |
//! | --- | --- | --- | --- |
//! | [`Proxy::ask`] | a request, or one that followed another | [`Next`] | `lookup.rs`: find, select, decide; then `collapse/join.rs`: follow, recall, fetch |
//! | [`Follow::park`] | a waker | an [`Attempt`], to ask again | `collapse/` |
//! | [`Proxy::recall`] | a [`Recall`] | [`Next`] | `recall.rs` |
//! | [`Proxy::head`] | a [`Fetch`] | the head to send | `plan.rs` |
//! | [`Proxy::receive`] | a [`Fetch`] and a head | ask again, an answer, or a response that begins | `receive.rs`, `freshen.rs` |
//! | [`Proxy::fail`] | a [`Fetch`] and an error | an answer | `receive.rs`, `refuse.rs` |
//! | [`Proxy::pass_on`] | what has begun | the response, and a sink for its content | `fill/` |
//! | [`Sink`](fill::Sink) | pieces, a proven end, or a failure | what is stored, and what others get | `fill/` |
//! | [`Proxy::refresh`] | what was given out stale | [`Next`], in the background | `collapse/join.rs` |
//!
//! A hit needs one step, and a plain one (`fast_path.rs`) not even a [`Question`]. What others are owed by a
//! fetch is one value, [`Duty`](collapse::Duty), which is settled once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::HeaderValue;

use crate::clock::{Clock, Timestamp};
use crate::message::fields::Fields;
use crate::message::growing::WideWindows;
use crate::message::network::Network;
use crate::message::request::RequestLimits;
use crate::message::target::{OriginUrl, PublicUrl};
use crate::policy::digest::Salt;
use crate::policy::key::KeyRules;
use crate::policy::reuse::{Mode, ReuseRules};
use crate::policy::storing::StoringRules;
use crate::proxy::collapse::Flights;
use crate::stats::Stats;
use crate::store::cache::Cache;
use crate::store::salt;

mod answer;
pub mod archive;
mod blocking;
pub mod collapse;
mod decision;
mod destination;
mod evented;
pub mod explain;
mod fast_path;
pub mod fill;
mod freshen;
mod lookup;
mod next;
mod operate;
mod plan;
mod question;
mod recall;
mod receive;
mod refuse;
mod site;
mod upgrade;

pub use blocking::{BlockingDriver, ContentFetch, Delivery, Upgraded};
pub use evented::{EventedFetch, FetchClient, RunElsewhere, UploadedContent};
pub use fast_path::{FastHit, Plain};
pub use next::{Answer, Attempt, Follow, Next, Recall, Refresh};
pub use plan::Fetch;
pub use question::Question;
pub use receive::AfterHead;
pub use upgrade::{UpgradeRequest, protocols};

/// Bodies that are passed on with wide windows at a time: 16 MiB of memory at most, or as many pipes.
pub const WIDE_MAX: usize = 64;

/// How the engine is to behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--origin`
    pub origin: OriginUrl,
    /// `user:password@` of `--origin`: the `Authorization` of every request, in place of the client's.
    pub origin_authorization: Option<HeaderValue>,
    /// Host and port that the proxy listens on.
    pub own_authority: String,
    /// Who may reuse what.
    pub reuse: ReuseRules,
    /// What is stored.
    pub storing: StoringRules,
    /// Which differences of the query do not matter.
    pub key: KeyRules,
    /// `--follow-redirects`
    pub follow_redirects: bool,
    /// `--no-browser-cache`
    pub no_browser_cache: bool,
    /// `--preserve-host`
    pub preserve_host: bool,
    /// `--public-url`
    pub public_url: Option<PublicUrl>,
    /// `--trust-forwarded`: whose `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted: Vec<Network>,
    /// How large a request may be.
    pub limits: RequestLimits,
    /// `--allow-purge`: from where a PURGE is taken; if from nowhere, it is the origin server's.
    pub purgers: Vec<Network>,
}

impl Settings {
    /// Is there nothing among them that the fast path does not heed?
    fn are_plain(&self) -> bool {
        self.reuse.are_plain()
            && self.key.is_plain()
            && !self.preserve_host
            // What is believed of scheme and host is in the key, unless --public-url outranks it.
            && (self.trusted.is_empty() || self.public_url.is_some())
    }
}

/// The engine. One for all threads.
pub struct Proxy {
    settings: Settings,
    cache: Arc<Cache>,
    flights: Arc<Flights>,
    clock: Clock,
    stats: Arc<Stats>,
    /// Are the settings such that the fast path heeds all of them?
    plain: bool,
    /// Has the log said that credentials kept a response from being stored? It says so once.
    logged_credentials: AtomicBool,
    /// What digests of credentials are keyed with, where memory is all there is.
    own_salt: Arc<Salt>,
    /// How many responses that are passed on may have much of their content waiting.
    wide: Arc<WideWindows>,
}

impl Proxy {
    /// Puts an engine together.
    pub fn new(settings: Settings, cache: Arc<Cache>, clock: Clock, stats: Arc<Stats>) -> Self {
        // Both follow from the settings alone, and every hit on the fast path needs them.
        let plain = settings.are_plain();
        let (flights, logged_credentials) = (Arc::default(), AtomicBool::new(false));
        // Another one in each process: what memory keeps under it does not outlive the process.
        let own_salt = Arc::new(salt::random());
        let wide = WideWindows::new(WIDE_MAX);
        Self { settings, cache, flights, clock, stats, plain, logged_credentials, own_salt, wide }
    }

    /// The counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The bound of the windows that are wide.
    pub fn wide_windows(&self) -> &Arc<WideWindows> {
        &self.wide
    }

    /// Who may reuse what.
    pub fn reuse_rules(&self) -> ReuseRules {
        self.settings.reuse
    }

    /// The cache.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// How many fetches others may follow, and how many requests follow one: both are 0 when nothing is under
    /// way.
    pub fn unsettled(&self) -> (usize, usize) {
        self.flights.count()
    }

    /// Removes what is of no more use (`--cache-clean-interval`).
    pub fn sweep(&self) {
        // Offline nothing can be fetched again: a stale response may be all that there ever is.
        if self.settings.reuse.mode != Mode::Offline {
            let swept = self.cache.sweep(self.clock.now());
            self.stats.count_swept(swept);
            if swept > 0 {
                log::debug!("timer: {swept} removed");
            }
        }
    }

    /// Resumes all that follow a fetch which began longer ago than `most`: each asks for itself.
    pub fn expire_parked(&self, most: Duration) {
        // Nobody is refused for having waited: each asks for itself, and may still get a response.
        self.flights.expire(most);
    }
}

/// A field's first value as text, for the log; empty if it is missing or no text.
pub fn field_text<'a>(fields: &'a Fields, name: &'a str) -> &'a str {
    fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
