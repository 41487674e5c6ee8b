//! An origin server behind the gate, for threads that may wait: a loop over what never waits.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::clock::Clock;
use crate::message::target::split_url;
use crate::origin::gate::admission::{Admission, Gate, OriginPermit};
use crate::origin::gate::limits::Limits;
use crate::origin::gate::memory::GateRequest;
use crate::origin::limit_response::LimitCopy;
use crate::origin::{
    Origin, OriginBody, OriginCondition, OriginError, OriginRequest, OriginResponse, Upgrade,
};

/// An origin server behind a gate.
pub struct Gated {
    inner: Arc<dyn Origin>,
    gate: Gate,
}

impl Gated {
    /// Puts a gate of its own in front of an origin server.
    pub fn new(inner: Arc<dyn Origin>, clock: Clock, limits: Limits) -> Self {
        Self::behind(Gate::new(clock, limits), inner)
    }

    /// Puts an origin server behind a gate that others share.
    pub fn behind(gate: Gate, inner: Arc<dyn Origin>) -> Self {
        Self { inner, gate }
    }

    /// Admits a request, now or when the limits allow it; the error is why not.
    fn admit(&self, request: &OriginRequest<'_, '_>) -> Result<OriginPermit, OriginError> {
        let OriginRequest { method, url, fields, waits, .. } = *request;
        let server = split_url(url).map(|(server, _)| server.to_string());
        // What cannot be read is not sent either.
        let server = server.as_deref().unwrap_or(url);
        let request = GateRequest { method, server, url, fields, waits };
        let this = thread::current();
        let mut now = Instant::now();
        let mut admission = self.gate.admit(request, now, move || this.unpark());
        loop {
            match admission {
                Admission::Admitted(permit) => return Ok(permit),
                Admission::Refused(error) => return Err(error),
                Admission::Waits(waiting) => {
                    // A wake-up that came before this is not lost: it ends the wait at once. Nor does
                    // one that was meant for something else do harm: a request that polls too early
                    // waits on.
                    thread::park_timeout(waiting.polls_at().saturating_duration_since(now));
                    now = Instant::now();
                    admission = waiting.poll(now);
                }
            }
        }
    }
}

impl Origin for Gated {
    fn send(&self, request: OriginRequest<'_, '_>) -> Result<OriginResponse, OriginError> {
        let permit = self.admit(&request)?;
        let response = self.inner.send(request).inspect_err(|error| permit.note_error(error))?;
        Ok(passed_on(response, permit))
    }

    fn condition(&self) -> OriginCondition {
        self.gate.condition()
    }

    fn upgrade(&self, request: OriginRequest<'_, '_>) -> Result<Upgrade, OriginError> {
        let permit = self.admit(&request)?;
        match self.inner.upgrade(request).inspect_err(|error| permit.note_error(error))? {
            Upgrade::Declined(response) => Ok(Upgrade::Declined(passed_on(response, permit))),
            Upgrade::Agreed(fields, mut tunnel) => {
                permit.note_upgrade();
                let held = WithPermit { inner: tunnel.from_origin, _permit: permit };
                tunnel.from_origin = Box::new(held);
                Ok(Upgrade::Agreed(fields, tunnel))
            }
        }
    }
}

/// A response that holds the permit until its body is dropped: the request is under way until then. Its
/// content is copied on its way if others are to get it who are held back.
fn passed_on(mut response: OriginResponse, permit: OriginPermit) -> OriginResponse {
    let copy = permit.note_answer(&response.head);
    response.body = response.body.map(|inner| -> Box<dyn OriginBody> {
        let Some(copy) = copy else { return Box::new(WithPermit { inner, _permit: permit }) };
        let copy = Some(copy);
        let inner: Box<dyn OriginBody> = Box::new(CopiedBody { inner, copy });
        Box::new(WithPermit { inner, _permit: permit })
    });
    response
}

/// Content that is copied while it is passed on. The client's copy does not depend on it.
struct CopiedBody {
    inner: Box<dyn OriginBody>,
    /// `None` once the content has ended.
    copy: Option<LimitCopy>,
}

impl OriginBody for CopiedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count > 0
            && let Some(copy) = &mut self.copy
        {
            copy.push(&buffer[..count]);
        } else if !buffer.is_empty()
            && let Some(copy) = self.copy.take()
        {
            copy.finish();
        }
        Ok(count)
    }
}

/// Something that is read, with its permit. The permit is dropped first, as the first field: a waiting
/// request may begin while the connection is closed or goes back to its pool.
struct WithPermit<T: ?Sized> {
    _permit: OriginPermit,
    inner: Box<T>,
}

impl OriginBody for WithPermit<dyn OriginBody> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl Read for WithPermit<dyn Read + Send> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}
