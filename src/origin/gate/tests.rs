//! The gate by table and by seed.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, Version};

use crate::clock::{Clock, Timestamp};
use crate::message::fields::Fields;
use crate::origin::gate::memory::REMEMBERED_MAX;
use crate::origin::gate::{Gate, Gated, Limits};
use crate::origin::{
    Origin, OriginError, OriginHead, OriginRequest, OriginResponse, RequestContent,
};

/// Answers every request with 503 and `Retry-After`.
struct Overloaded;

impl Origin for Overloaded {
    fn send(&self, _: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let mut fields = Fields::new();
        fields.append(http::header::RETRY_AFTER, HeaderValue::from_static("60"));
        Ok(OriginResponse {
            head: OriginHead {
                status: StatusCode::SERVICE_UNAVAILABLE,
                version: Version::HTTP_11,
                fields,
                length: None,
                silently_delimited: false,
                has_content: false,
            },
            body: None,
        })
    }
}

#[test]
fn the_memory_of_limited_clients_and_paths_is_bounded() {
    let limits =
        Limits { rate: None, concurrency: None, connections: None, wait_max: Duration::ZERO };
    let gate = Gate::new(Clock::by_hand(Timestamp(0)), limits);
    let gated = Gated::behind(gate.clone(), Arc::new(Overloaded));
    let (method, fields) = (&Method::GET, &Fields::new());
    for number in 0..=REMEMBERED_MAX {
        let url = &format!("http://o/{number}");
        let content = RequestContent::None;
        let asked =
            OriginRequest { method, url, host: None, fields, content, waits: false, interim: None };
        assert!(gated.send(asked).is_ok());
    }
    assert!(gate.held_back() <= REMEMBERED_MAX);
    assert_eq!(gate.counts(), (0, 0));
}
