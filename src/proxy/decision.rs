//! What `policy::reuse` decides, and what comes on top of it: reuses that are counted, and offline the variants
//! that were made for other requests.

use std::sync::Arc;

use crate::policy::credentials::is_credential;
use crate::policy::reason::{Detail, Why};
use crate::policy::response::Response;
use crate::policy::reuse::{Decision, Mode, decide};
use crate::policy::selection::takes_coding;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::proxy::Proxy;
use crate::proxy::lookup::Found;
use crate::proxy::question::Question;

impl Proxy {
    /// Decides, and counts the reuse where these are limited (`--hit-ttl`).
    pub(super) fn decide(
        &self,
        question: &Question,
        selected: Result<Arc<StoredResponse>, Why>,
        found: &Found,
    ) -> Decision {
        let rules = &self.settings.reuse;
        // One that fits may be behind memory.
        if rules.mode == Mode::Offline
            && matches!(selected, Err(Why::VaryMiss))
            && !self.may_be_in_backing(found)
            && let Some(stored) = self.other_variant(question, found.variants())
        {
            return Decision::ReuseStale { stored, detail: Detail::Variant, refresh: false };
        }
        match decide(&question.presented, selected, question.request_time, rules) {
            // Somebody else has just had the last of them.
            Decision::Reuse(stored)
                if rules.reuses_max.is_some_and(|most| !stored.count_reuse(most)) =>
            {
                let (why, detail) = (Why::Stale, Some(Detail::HitTtl));
                Decision::Forward { why, detail, selected: Some(stored), validate: false }
            }
            decision => decision,
        }
    }

    /// Deviation from §4.1, `--cache-mode offline` alone: the origin server cannot be asked for the variant that
    /// this request would select, so the newest one is given that the client can decode. A recording made with
    /// one client is replayed to another, whose `User-Agent` or `Accept` differs.
    fn other_variant(
        &self,
        question: &Question,
        variants: &[Arc<StoredResponse>],
    ) -> Option<Arc<StoredResponse>> {
        let gives = |stored: &&Arc<StoredResponse>| {
            stored.part.is_none()
                && self.may_show(stored)
                && takes_coding(&question.request.fields, &stored.fields)
                && !self.settings.leads_nowhere(&question.request, stored.status, &stored.fields)
        };
        variants.iter().find(gives).cloned()
    }

    /// What somebody's credentials have selected is for nobody else, offline too.
    fn may_show(&self, head: &StoredHead) -> bool {
        let selected_by_credentials = |(name, value): (&http::HeaderName, Option<&[u8]>)| {
            value.is_some() && is_credential(name.as_str())
        };
        self.settings.reuse.share_credentials || !head.selecting.iter().any(selected_by_credentials)
    }

    /// [`Proxy::refuse_forwarding`]; where variants are stored, it says what a request has to have.
    pub(super) fn refuse_variants(
        &self,
        question: &Question,
        detail: Detail,
        variants: &[Arc<StoredResponse>],
    ) -> Response {
        let mut wanted: Vec<String> = Vec::new();
        for stored in variants.iter().filter(|stored| stored.part.is_none()) {
            let codings: Vec<_> =
                stored.fields.members("content-encoding").map(String::from_utf8_lossy).collect();
            // The operator learns that credentials have selected it, but not whose.
            let text = if !self.may_show(stored) {
                "other credentials".to_string()
            } else if codings.is_empty() {
                continue;
            } else {
                format!("Accept-Encoding: {}", codings.join(", "))
            };
            if !wanted.contains(&text) {
                wanted.push(text);
            }
        }
        // Nothing is wanted where the variants differ in fields that are not named here: then the usual
        // text says all there is.
        if detail != Detail::Offline || wanted.is_empty() {
            return self.refuse_forwarding(question, detail);
        }
        self.refuse_offline(question, &wanted.join(", or "))
    }
}
